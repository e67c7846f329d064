//! `belljar`: the command line. One file per verb under `verbs`, the way of `belljar run` under `run`.

pub mod collateral;
pub mod command;
pub mod evidence;
pub mod failure;
pub mod k8s;
pub mod kubectl;
pub mod output;
pub mod paths;
pub mod run;
pub mod verbs;
pub mod verify;
