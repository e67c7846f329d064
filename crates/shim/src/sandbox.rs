//! The sandbox service, for containerds that ask for it (`sandboxer = "shim"`): the pod's VM without a task that stands for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest, PlatformResponse,
    SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest, SandboxStatusResponse, ShutdownSandboxRequest,
    ShutdownSandboxResponse, StartSandboxRequest, StartSandboxResponse, StopSandboxRequest, StopSandboxResponse,
    WaitSandboxRequest, WaitSandboxResponse,
};
use containerd_shim_protos::sandbox_async::{Sandbox, create_sandbox};
use tokio::sync::Notify;
use ttrpc::asynchronous::TtrpcContext;

use crate::annotations::{POD_NAME, POD_NAMESPACE, TYPE};
use crate::bundle::{BundleConfig, Namespace};
use crate::error::ShimError;
use crate::events::timestamp;
use crate::network::Resolver;
use crate::pod::Pod;
use crate::process::State;
use crate::sandbox_config::SandboxConfig;

/// The service.
#[derive(Debug, Clone)]
pub struct SandboxService {
    pod: Arc<Pod>,
    shutdown: Arc<Notify>,
}

impl SandboxService {
    /// The service of this pod, for a server; `shutdown` is told when containerd needs the shim no longer.
    pub fn services(pod: Arc<Pod>, shutdown: Arc<Notify>) -> HashMap<String, ttrpc::asynchronous::Service> {
        create_sandbox(Arc::new(Self { pod, shutdown }))
    }
}

/// What a bundle would say of the sandbox.
fn describe(request: &CreateSandboxRequest) -> Result<(BundleConfig, Option<Resolver>), ShimError> {
    let bad = |error: protobuf::Error| ShimError::InvalidArgument(format!("the sandbox's configuration: {error}"));
    let options = request.options.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
    let config = SandboxConfig::parse(options).map_err(bad)?;
    let mut described = BundleConfig { annotations: config.annotations, ..BundleConfig::default() };
    described.annotations.extend(request.annotations.clone());
    for (key, value) in [(POD_NAME, config.name), (POD_NAMESPACE, config.namespace)] {
        described.annotations.entry(key.to_owned()).or_insert(value);
    }
    described.annotations.insert(TYPE.to_owned(), "sandbox".to_owned());
    described.hostname = config.hostname;
    if !config.cgroup_parent.is_empty() {
        described.linux.cgroups_path = match config.cgroup_parent.ends_with(".slice") {
            true => format!("{}:belljar:{}", config.cgroup_parent, request.sandbox_id),
            false => format!("{}/{}", config.cgroup_parent, request.sandbox_id),
        };
    }
    if !request.netns_path.is_empty() {
        described.linux.namespaces = vec![Namespace { kind: "network".to_owned(), path: request.netns_path.clone() }];
    }
    let resolver = Resolver::new(config.nameservers, config.searches, config.options);
    Ok((described, Some(resolver)))
}

#[async_trait]
impl Sandbox for SandboxService {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> ttrpc::Result<CreateSandboxResponse> {
        let described = describe(&request)?;
        self.pod.create_sandbox(&request.sandbox_id, &request.bundle_path, described).await?;
        Ok(CreateSandboxResponse::new())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: StartSandboxRequest,
    ) -> ttrpc::Result<StartSandboxResponse> {
        let mut answer = StartSandboxResponse::new();
        answer.pid = self.pod.start(&request.sandbox_id, "").await?;
        answer.created_at = Some(timestamp(SystemTime::now())).into();
        Ok(answer)
    }

    async fn platform(&self, _: &TtrpcContext, _: PlatformRequest) -> ttrpc::Result<PlatformResponse> {
        let mut answer = PlatformResponse::new();
        let platform = answer.platform.mut_or_insert_default();
        "linux".clone_into(&mut platform.os);
        "amd64".clone_into(&mut platform.architecture);
        Ok(answer)
    }

    async fn stop_sandbox(&self, _: &TtrpcContext, request: StopSandboxRequest) -> ttrpc::Result<StopSandboxResponse> {
        match self.pod.kill(&request.sandbox_id, "", 9, true).await {
            // A sandbox that is stopped, or was never made, is what was asked for.
            Ok(()) | Err(ShimError::Finished { .. } | ShimError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(StopSandboxResponse::new())
    }

    async fn wait_sandbox(&self, _: &TtrpcContext, request: WaitSandboxRequest) -> ttrpc::Result<WaitSandboxResponse> {
        let found = self.pod.find(&request.sandbox_id, "")?;
        let exit = found.process().ended().await;
        let mut answer = WaitSandboxResponse::new();
        answer.exit_status = exit.code;
        answer.exited_at = Some(timestamp(exit.at)).into();
        Ok(answer)
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: SandboxStatusRequest,
    ) -> ttrpc::Result<SandboxStatusResponse> {
        let found = self.pod.find(&request.sandbox_id, "")?;
        let mut answer = SandboxStatusResponse::new();
        answer.sandbox_id = request.sandbox_id;
        answer.pid = self.pod.pid();
        // The words of containerd's CRI plugin.
        answer.state = match found.process().state() {
            State::Running => "SANDBOX_READY".to_owned(),
            _ => "SANDBOX_NOTREADY".to_owned(),
        };
        answer.created_at = Some(timestamp(found.task().created)).into();
        if let State::Stopped(exit) = found.process().state() {
            answer.exited_at = Some(timestamp(exit.at)).into();
        }
        if request.verbose
            && let Ok((vm, _)) = self.pod.vm()
        {
            answer.info = vm.info().into_iter().collect();
        }
        Ok(answer)
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, request: PingRequest) -> ttrpc::Result<PingResponse> {
        self.pod.find(&request.sandbox_id, "")?;
        Ok(PingResponse::new())
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: ShutdownSandboxRequest,
    ) -> ttrpc::Result<ShutdownSandboxResponse> {
        if self.pod.find(&request.sandbox_id, "").is_ok() {
            let _ = self.pod.kill(&request.sandbox_id, "", 9, true).await;
            match self.pod.delete(&request.sandbox_id, "").await {
                Ok(_) | Err(ShimError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.pod.flush(Duration::from_secs(1)).await;
        self.shutdown.notify_one();
        Ok(ShutdownSandboxResponse::new())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        _: SandboxMetricsRequest,
    ) -> ttrpc::Result<SandboxMetricsResponse> {
        Err(ShimError::Unimplemented("a sandbox's use is that of its cgroup on the node".to_owned()).into())
    }
}
