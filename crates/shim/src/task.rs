//! The task service, versions 2 and 3: their messages are the same, only the service's name differs. Each call is a few lines over
//! [`Pod`], which holds the states.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse,
    ProcessInfo, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest,
    StateResponse, StatsRequest, StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::shim_async::Task;
use protobuf::well_known_types::any::Any;
use serde::Deserialize;
use tokio::sync::Notify;
use ttrpc::asynchronous::TtrpcContext;

use crate::error::ShimError;
use crate::events::timestamp;
use crate::pod::Pod;
use crate::process::State;
use crate::stats;
use crate::streams::Stdio;

/// Name of the service of version 3, under which the generated code registers it.
pub const SERVICE_V3: &str = "containerd.task.v3.Task";
/// Name of the service of version 2.
pub const SERVICE_V2: &str = "containerd.task.v2.Task";
/// Most words of an exec's command.
const MAX_ARGS: usize = 4096;

/// The service.
#[derive(Debug, Clone)]
pub struct TaskService {
    pod: Arc<Pod>,
    shutdown: Arc<Notify>,
}

impl TaskService {
    /// Of this pod; `shutdown` is told when containerd needs the shim no longer.
    pub fn new(pod: Arc<Pod>, shutdown: Arc<Notify>) -> Self {
        Self { pod, shutdown }
    }
}

/// Of the process description of an exec, what names it; the rest describes a process, which is the contract's business.
#[derive(Debug, Deserialize)]
struct ExecSpec {
    #[serde(default)]
    args: Vec<String>,
}

fn exec_args(spec: Option<&Any>) -> Result<Vec<String>, ShimError> {
    let spec = spec.ok_or_else(|| ShimError::InvalidArgument("exec without a process".to_owned()))?;
    let spec: ExecSpec = serde_json::from_slice(&spec.value)
        .map_err(|error| ShimError::InvalidArgument(format!("process of an exec: {error}")))?;
    match spec.args.len() {
        0 => Err(ShimError::InvalidArgument("exec without a command".to_owned())),
        1..=MAX_ARGS => Ok(spec.args),
        found => Err(ShimError::InvalidArgument(format!("exec with {found} words, at most {MAX_ARGS}"))),
    }
}

fn logged<T>(call: &'static str, id: &str, result: Result<T, ShimError>) -> ttrpc::Result<T> {
    match &result {
        Ok(_) => tracing::debug!(call, id, "ok"),
        Err(error) => tracing::info!(call, id, %error, "refused"),
    }
    Ok(result?)
}

#[async_trait]
impl Task for TaskService {
    async fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> ttrpc::Result<CreateTaskResponse> {
        let create = async {
            if !request.checkpoint.is_empty() {
                return Err(ShimError::Unimplemented("a pod VM cannot be restored from a checkpoint".to_owned()));
            }
            crate::options::check(request.options.as_ref())?;
            let stdio = Stdio {
                stdin: request.stdin.clone(),
                stdout: request.stdout.clone(),
                stderr: request.stderr.clone(),
                terminal: request.terminal,
            };
            self.pod.create(&request.id, &request.bundle, stdio).await
        };
        let pid = logged("Create", &request.id, create.await)?;
        Ok(CreateTaskResponse { pid, ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let pid = logged("Start", &request.id, self.pod.start(&request.id, &request.exec_id).await)?;
        Ok(StartResponse { pid, ..Default::default() })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let found = self.pod.find(&request.id, &request.exec_id)?;
        let (task, process) = (found.task(), found.process());
        let mut answer = StateResponse::new();
        answer.id = task.id.clone();
        answer.bundle = task.bundle.to_string_lossy().into_owned();
        answer.exec_id = request.exec_id;
        answer.pid = self.pod.pid();
        answer.status = process.state().status().into();
        answer.stdin = process.stdio.stdin.clone();
        answer.stdout = process.stdio.stdout.clone();
        answer.stderr = process.stdio.stderr.clone();
        answer.terminal = process.stdio.terminal;
        if let State::Stopped(exit) = process.state() {
            answer.exit_status = exit.code;
            answer.exited_at = Some(timestamp(exit.at)).into();
        }
        Ok(answer)
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let found = self.pod.find(&request.id, &request.exec_id)?;
        let exit = found.process().ended().await;
        let mut answer = WaitResponse::new();
        answer.exit_status = exit.code;
        answer.exited_at = Some(timestamp(exit.at)).into();
        Ok(answer)
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        let killed = self.pod.kill(&request.id, &request.exec_id, request.signal, request.all).await;
        logged("Kill", &request.id, killed)?;
        Ok(Empty::new())
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        let exit = logged("Delete", &request.id, self.pod.delete(&request.id, &request.exec_id).await)?;
        let mut answer = DeleteResponse::new();
        answer.pid = self.pod.pid();
        answer.exit_status = exit.code;
        answer.exited_at = Some(timestamp(exit.at)).into();
        Ok(answer)
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let stdio =
            Stdio { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, terminal: request.terminal };
        let added =
            exec_args(request.spec.as_ref()).and_then(|args| self.pod.exec(&request.id, &request.exec_id, args, stdio));
        logged("Exec", &request.id, added)?;
        Ok(Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> ttrpc::Result<Empty> {
        let resized = self.pod.resize(&request.id, &request.exec_id, request.width, request.height).await;
        logged("ResizePty", &request.id, resized)?;
        Ok(Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        let found = self.pod.find(&request.id, &request.exec_id)?;
        if let (true, Some(streams)) = (request.stdin, &found.process().streams) {
            streams.close_input();
        }
        Ok(Empty::new())
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        self.pod.find(&request.id, "")?;
        let mut answer = PidsResponse::new();
        answer.processes = vec![ProcessInfo { pid: self.pod.pid(), ..Default::default() }];
        Ok(answer)
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let mut answer = StatsResponse::new();
        answer.stats = Some(stats::of(&self.pod, &request.id).await?).into();
        Ok(answer)
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        let mut answer = ConnectResponse::new();
        answer.shim_pid = std::process::id();
        // Also before Create, and after Delete: containerd asks to know whom it has found.
        answer.task_pid = self.pod.find(&request.id, "").map_or(0, |_| self.pod.pid());
        env!("CARGO_PKG_VERSION").clone_into(&mut answer.version);
        Ok(answer)
    }

    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> ttrpc::Result<Empty> {
        // The shim serves all tasks of the pod; containerd asks after each.
        if self.pod.is_empty() || request.now {
            self.pod.flush(Duration::from_secs(1)).await;
            self.shutdown.notify_one();
        }
        Ok(Empty::new())
    }

    async fn pause(&self, _: &TtrpcContext, _: PauseRequest) -> ttrpc::Result<Empty> {
        Err(ShimError::Unimplemented("a container in a pod VM cannot be paused".to_owned()).into())
    }

    async fn resume(&self, _: &TtrpcContext, _: ResumeRequest) -> ttrpc::Result<Empty> {
        Err(ShimError::Unimplemented("a container in a pod VM cannot be paused, so neither resumed".to_owned()).into())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        Err(ShimError::Unimplemented("a pod VM has no checkpoints: its memory is not the host's to read".to_owned())
            .into())
    }

    async fn update(&self, _: &TtrpcContext, _: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        Err(ShimError::Unimplemented(
            "a container's limits stand in the pod's contract; change the pod's YAML and apply it again".to_owned(),
        )
        .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_is_its_command_and_nothing_else() {
        let spec = |json: &str| Any { value: json.as_bytes().to_vec(), ..Any::new() };
        let described = spec(
            r#"{"args":["sh","-c","id"],"env":["A=1"],"user":{"uid":0},"capabilities":{"bounding":["CAP_SYS_ADMIN"]}}"#,
        );
        assert_eq!(exec_args(Some(&described)), Ok(vec!["sh".to_owned(), "-c".to_owned(), "id".to_owned()]));
        assert_eq!(exec_args(Some(&spec("{}"))), Err(ShimError::InvalidArgument("exec without a command".to_owned())));
        assert!(exec_args(None).is_err());
        assert!(exec_args(Some(&spec("[]"))).is_err());
    }
}
