//! Brings volumes to the guest before a container starts, and changes of them later.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use belljar_contract::Contract;
use belljar_guest_api::api::AgentClient;
use belljar_guest_api::status::CallError;
use ttrpc::context;

use crate::bundle::BundleConfig;
use crate::error::ShimError;
use crate::vm::Vm;
use crate::volumes::{self, Source};

/// How long the guest may take a volume.
const LIMIT: Duration = Duration::from_secs(20);

/// Looks at the volumes that follow the host, from the first one on.
#[derive(Debug)]
pub struct Carrier {
    period: Duration,
    followed: Arc<Mutex<Vec<Arc<Source>>>>,
}

impl Carrier {
    /// One that looks for changes so often.
    pub fn new(period: Duration) -> Self {
        Self { period, followed: Arc::default() }
    }

    /// Brings the volumes of a container, each as a whole. Needs a runtime.
    ///
    /// # Errors
    /// [`ShimError`]: files that are not there, or that the guest refuses.
    pub async fn bring(
        &self,
        agent: &AgentClient,
        vm: &Vm,
        contract: &Contract,
        container: &str,
        config: &BundleConfig,
    ) -> Result<(), ShimError> {
        for source in volumes::sources(contract, container, config)? {
            let source = Arc::new(source);
            put(agent, &source).await?;
            if source.follows {
                self.follow(source, vm);
            }
        }
        Ok(())
    }

    fn follow(&self, source: Arc<Source>, vm: &Vm) {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let first = followed.is_empty();
        // A container that starts again has its files at a new place, maybe.
        followed.retain(|known| known.volume() != source.volume());
        followed.push(source);
        if first {
            tokio::spawn(watch(self.period, self.followed.clone(), vm.clone()));
        }
    }
}

async fn watch(period: Duration, followed: Arc<Mutex<Vec<Arc<Source>>>>, vm: Vm) {
    let look = async {
        loop {
            tokio::time::sleep(period).await;
            let sources = followed.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let Some(agent) = vm.agent_now() else { continue };
            for source in sources {
                // A change that cannot be brought is tried again: the file may be half-way, or the guest refuses its type.
                if let Err(error) = put(&agent, &source).await {
                    tracing::warn!(volume = source.volume(), %error, "a change of a volume does not reach the guest");
                }
            }
        }
    };
    tokio::select! {
        () = look => {}
        _ = vm.ended() => {}
    }
}

async fn put(agent: &AgentClient, source: &Arc<Source>) -> Result<(), ShimError> {
    let reading = tokio::task::spawn_blocking({
        let source = source.clone();
        move || source.changed()
    });
    let changed = reading.await.map_err(|error| ShimError::Internal(error.to_string()))??;
    let Some(request) = changed else { return Ok(()) };
    let put = agent.put_volume(context::with_duration(LIMIT), &request).await;
    put.map(|_| ()).map_err(|error| {
        source.forget();
        let what = format!("the guest does not take volume {}", source.volume());
        match CallError::of(&error) {
            Some(answer) => ShimError::of_guest(&what, &answer),
            None => ShimError::Unavailable(format!("{what}: {error}")),
        }
    })
}
