//! Vendors' collateral: how `belljar collateral` reaches the services, opens what is stored, and answers what-ifs.

pub mod listing;
pub mod services;
pub mod simulation;
pub mod store;
