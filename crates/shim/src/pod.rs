//! A pod: its VM, the tasks that containerd has made of it, and what may be done with each in which state.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use belljar_guest_api::api::{
    AgentClient, ResizeTerminalRequest, SignalContainerRequest, StartContainerRequest, StartExecRequest,
    WaitContainerResponse,
};
use belljar_guest_api::status::CallError;
use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM, TaskStart,
};
use ttrpc::context::{self, Context};

use crate::annotations::{self, Role};
use crate::bundle::BundleConfig;
use crate::carrier::Carrier;
use crate::config::{Config, TeeChoice};
use crate::error::ShimError;
use crate::events::{Event, Events, timestamp};
use crate::network::{Place, Resolver};
use crate::process::{Exit, Process, State};
use crate::streams::{ProcessName, Stdio, Streams};
use crate::values;
use crate::vm::{Bound, Plan, Vm};

/// SIGKILL.
const KILL: u32 = 9;
/// SIGTERM.
const TERM: u32 = 15;
/// How long the last output may take after a process has ended and its task is deleted.
const DRAIN: Duration = Duration::from_secs(2);
/// How long the guest may take over a signal, before SIGKILL ends the VM instead.
const SIGNAL_LIMIT: Duration = Duration::from_secs(2);

/// What the shim of this pod knows.
#[derive(Debug)]
pub struct Pod {
    /// Id of the sandbox.
    id: String,
    config: Config,
    tee: TeeChoice,
    events: Events,
    /// One Create at a time.
    creating: tokio::sync::Mutex<()>,
    volumes: Carrier,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    tasks: BTreeMap<String, Arc<Task>>,
    vm: Option<(Vm, Arc<Bound>)>,
}

/// What containerd calls a task.
#[derive(Debug)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// The container's name in the contract; none for the sandbox, which is the VM.
    container: Option<String>,
    /// Whether the VM ends with it.
    owns_vm: bool,
    /// When it was made.
    pub created: SystemTime,
    /// Its first process.
    pub process: Process,
    execs: Mutex<BTreeMap<String, Arc<Exec>>>,
    bundle_config: BundleConfig,
}

/// A further process of a container.
#[derive(Debug)]
pub struct Exec {
    args: Vec<String>,
    /// The process.
    pub process: Process,
}

/// A process that a call means.
#[derive(Debug, Clone)]
pub enum Found {
    /// The task's own.
    Task(Arc<Task>),
    /// An exec of the task.
    Exec(Arc<Task>, Arc<Exec>),
}

impl Found {
    /// The task.
    pub fn task(&self) -> &Arc<Task> {
        match self {
            Self::Task(task) | Self::Exec(task, _) => task,
        }
    }

    /// The process.
    pub fn process(&self) -> &Process {
        match self {
            Self::Task(task) => &task.process,
            Self::Exec(_, exec) => &exec.process,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pod {
    /// A pod without a VM yet.
    pub fn new(id: &str, config: Config, tee: TeeChoice, events: Events) -> Arc<Self> {
        let period = Duration::from_secs(config.volume_seconds);
        Arc::new(Self {
            id: id.to_owned(),
            config,
            tee,
            events,
            creating: tokio::sync::Mutex::default(),
            volumes: Carrier::new(period),
            inner: Mutex::default(),
        })
    }

    /// The process id that containerd knows tasks by: QEMU's, in which all of them run; this shim's while there is none.
    pub fn pid(&self) -> u32 {
        self.vm().map_or_else(|_| std::process::id(), |(vm, _)| vm.qemu())
    }

    /// Makes a task of the bundle. The first one is the sandbox, or the only container; it starts the VM.
    ///
    /// # Errors
    /// [`ShimError`]: no contract, a container that is not in it, a node that cannot run it.
    pub async fn create(self: &Arc<Self>, id: &str, bundle: &str, stdio: Stdio) -> Result<u32, ShimError> {
        let _one = self.creating.lock().await;
        if lock(&self.inner).tasks.contains_key(id) {
            return Err(ShimError::AlreadyExists { what: "task", id: id.to_owned() });
        }
        let bundle = PathBuf::from(bundle);
        let bad = |error: &dyn std::fmt::Display| ShimError::InvalidArgument(error.to_string());
        let bundle_config = BundleConfig::read(&bundle).map_err(|e| bad(&e))?;
        let role = Role::of(&bundle_config.annotations).map_err(|e| bad(&e))?;
        let (container, owns_vm) = match &role {
            Role::Sandbox => (None, true),
            Role::Container { name, .. } => (Some(name.clone()), false),
            Role::Single => (annotations::container_name(&bundle_config.annotations).map(str::to_owned), true),
        };
        let streams = match role {
            Role::Sandbox => None,
            _ => Some(Streams::open(&stdio)?),
        };
        let (vm, bound, container) = if owns_vm {
            self.first(&bundle_config, None, container, role == Role::Single).await?
        } else {
            let vm = lock(&self.inner).vm.clone();
            let (vm, bound) = vm.ok_or_else(|| ShimError::Refused("the pod's sandbox is not there".to_owned()))?;
            (vm, bound, container)
        };
        if let Some(name) = &container
            && !bound.contract.containers.contains_key(name)
        {
            let known: Vec<_> = bound.contract.containers.keys().map(String::as_str).collect();
            return Err(ShimError::Refused(format!(
                "container {name} is not in the pod's contract, which has {}",
                known.join(", ")
            )));
        }
        let task = Task {
            id: id.to_owned(),
            bundle,
            container,
            owns_vm,
            created: SystemTime::now(),
            process: Process::new(id, stdio, streams),
            execs: Mutex::default(),
            bundle_config,
        };
        self.add(task, vm, bound);
        Ok(self.pid())
    }

    /// Makes the sandbox without a bundle's `config.json`: `described` says what that would say.
    ///
    /// # Errors
    /// As [`Pod::create`].
    pub async fn create_sandbox(
        self: &Arc<Self>,
        id: &str,
        bundle: &str,
        described: (BundleConfig, Option<Resolver>),
    ) -> Result<(), ShimError> {
        let _one = self.creating.lock().await;
        let (bundle_config, resolver) = described;
        let (vm, bound, _) = self.first(&bundle_config, resolver, None, false).await?;
        let task = Task {
            id: id.to_owned(),
            bundle: bundle.into(),
            container: None,
            owns_vm: true,
            created: SystemTime::now(),
            process: Process::new(id, Stdio::default(), None),
            execs: Mutex::default(),
            bundle_config,
        };
        self.add(task, vm, bound);
        Ok(())
    }

    fn add(self: &Arc<Self>, task: Task, vm: Vm, bound: Arc<Bound>) {
        let task = Arc::new(task);
        {
            let mut inner = lock(&self.inner);
            inner.tasks.insert(task.id.clone(), task.clone());
            if task.owns_vm {
                inner.vm = Some((vm.clone(), bound));
            }
        }
        self.events.send(&Event::Create(self.create_event(&task)));
        if task.owns_vm {
            tokio::spawn(self.clone().watch(vm));
        }
    }

    /// The VM for the first task.
    async fn first(
        &self,
        config: &BundleConfig,
        resolver: Option<Resolver>,
        container: Option<String>,
        single: bool,
    ) -> Result<(Vm, Arc<Bound>, Option<String>), ShimError> {
        if lock(&self.inner).vm.is_some() {
            return Err(ShimError::AlreadyExists { what: "sandbox", id: self.id.clone() });
        }
        let value = annotations::initdata(&config.annotations).map_err(|e| ShimError::Refused(e.to_string()))?;
        let bound = Arc::new(Bound::from_annotation(value)?);
        let container = match container {
            None if single => Some(only_container(&bound)?),
            other => other,
        };
        let broker = config.annotations.get(annotations::BROKER).or(self.config.broker.as_ref());
        let broker = broker
            .map(|address| address.parse())
            .transpose()
            .map_err(|error| ShimError::InvalidArgument(format!("annotation {}: {error}", annotations::BROKER)))?;
        let name = annotations::pod_name(&config.annotations).unwrap_or_else(|| self.id.clone());
        let plan = Plan {
            id: self.id.clone(),
            name,
            bound: bound.clone(),
            cgroup: config.linux.cgroups_path.clone(),
            in_pod: !single,
            place: Place::of(config, resolver)?,
            broker,
            tee: self.tee,
        };
        let vm = Vm::launch(plan, &self.config).await?;
        Ok((vm, bound, container))
    }

    /// The task, or the exec process when `exec` is not empty.
    ///
    /// # Errors
    /// [`ShimError::NotFound`].
    pub fn find(&self, id: &str, exec: &str) -> Result<Found, ShimError> {
        let task = lock(&self.inner).tasks.get(id).cloned();
        let task = task.ok_or_else(|| ShimError::NotFound { what: "task", id: id.to_owned() })?;
        if exec.is_empty() {
            return Ok(Found::Task(task));
        }
        let found = lock(&task.execs).get(exec).cloned();
        match found {
            Some(exec) => Ok(Found::Exec(task, exec)),
            None => Err(ShimError::NotFound { what: "exec", id: exec.to_owned() }),
        }
    }

    /// Starts what was created.
    ///
    /// # Errors
    /// [`ShimError`]; a refusal of the guest in its words.
    pub async fn start(self: &Arc<Self>, id: &str, exec: &str) -> Result<u32, ShimError> {
        let found = self.find(id, exec)?;
        let (vm, bound) = self.vm()?;
        if let Some(why) = vm.ended_now() {
            return Err(ShimError::Unavailable(why));
        }
        found.process().begin()?;
        // Goes on when the caller gives up: what the guest starts must be known here.
        let started = tokio::spawn(self.clone().start_found(found, vm, bound));
        started.await.map_err(|error| ShimError::Internal(error.to_string()))??;
        Ok(self.pid())
    }

    async fn start_found(self: Arc<Self>, found: Found, vm: Vm, bound: Arc<Bound>) -> Result<(), ShimError> {
        let process = found.process();
        let task = found.task();
        let Some(container) = &task.container else {
            // The sandbox runs as soon as it is asked to; its boot goes on behind.
            process.runs();
            self.events.send(&Event::Start(self.start_event(task)));
            return Ok(());
        };
        let name = ProcessName {
            container: container.clone(),
            exec: match &found {
                Found::Task(_) => String::new(),
                Found::Exec(_, exec) => exec.process.id().to_owned(),
            },
        };
        let agent = match self.ask_to_start(&found, &name, &vm, &bound).await {
            Ok(agent) => agent,
            Err(error) => {
                process.failed();
                return Err(error);
            }
        };
        if !process.runs() {
            // It was killed while it started.
            let _ = signal(&agent, &name, KILL, name.exec.is_empty()).await;
            return Err(ShimError::Finished { id: process.id().to_owned() });
        }
        let leaves = bound.contract.containers.get(container).is_some_and(|container| container.logs.allowed());
        if let Some(streams) = &process.streams {
            streams.start(&agent, &name, leaves);
        }
        if let Some((columns, rows)) = process.take_size() {
            let _ = resize(&agent, &name, columns, rows).await;
        }
        self.events.send(&match &found {
            Found::Task(task) => Event::Start(self.start_event(task)),
            Found::Exec(task, exec) => Event::ExecStarted(self.exec_started(task, exec)),
        });
        tokio::spawn(self.wait_guest(found, name, agent));
        Ok(())
    }

    async fn ask_to_start(
        &self,
        found: &Found,
        name: &ProcessName,
        vm: &Vm,
        bound: &Bound,
    ) -> Result<AgentClient, ShimError> {
        let agent = vm.agent().await?;
        let started = match found {
            Found::Task(task) => {
                let mut request = StartContainerRequest::new();
                name.container.clone_into(&mut request.name);
                if let Some(container) = bound.contract.containers.get(&name.container) {
                    request.env = values::of(&task.bundle_config.process.env, container)?;
                }
                self.volumes.bring(&agent, vm, &bound.contract, &name.container, &task.bundle_config).await?;
                agent.start_container(Context::default(), &request).await
            }
            Found::Exec(_, exec) => {
                let mut request = StartExecRequest::new();
                name.container.clone_into(&mut request.name);
                name.exec.clone_into(&mut request.exec);
                exec.args.clone_into(&mut request.args);
                request.terminal = exec.process.stdio.terminal;
                agent.start_exec(Context::default(), &request).await
            }
        };
        match started {
            Ok(_) => Ok(agent),
            Err(error) => Err(guest_error(vm, &format!("the guest does not start {}", name.container), &error).await),
        }
    }

    /// Waits for the process's end in the guest, and tells of it.
    async fn wait_guest(self: Arc<Self>, found: Found, name: ProcessName, agent: AgentClient) {
        let answer = agent.wait_container(Context::default(), &name.request()).await;
        match answer {
            Ok(answer) => self.ended(&found, &answer),
            Err(error) => {
                // The VM's end is told by whoever watches it; an agent that cannot tell is the end of the VM.
                tracing::warn!(?name, %error, "the guest does not say how a process ended");
                if let Ok((vm, _)) = self.vm() {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    if matches!(found.process().state(), State::Running) && name.exec.is_empty() {
                        vm.stop().await;
                    }
                }
                if found.process().stop(Exit::now(255)) {
                    self.tell_exit(&found, Exit::now(255));
                }
            }
        }
    }

    fn ended(&self, found: &Found, answer: &WaitContainerResponse) {
        let exit = Exit::now(answer.exit_code.min(255));
        if let (Found::Task(task), true) = (found, answer.oom_killed) {
            let mut event = TaskOOM::new();
            task.id.clone_into(&mut event.container_id);
            self.events.send(&Event::Oom(event));
        }
        let mut message = answer.termination_message.clone();
        if !answer.refusal.is_empty() {
            tracing::error!(kind = answer.refusal_kind, refusal = answer.refusal, "the guest ended a container");
            message = format!("ended by the guest ({}): {}", answer.refusal_kind, answer.refusal);
        }
        if let (Found::Task(task), false) = (found, message.is_empty()) {
            task.leave_message(&message);
        }
        if found.process().stop(exit) {
            self.tell_exit(found, exit);
        }
    }

    fn tell_exit(&self, found: &Found, exit: Exit) {
        if let Some(streams) = &found.process().streams {
            streams.ended();
        }
        let task = found.task();
        let mut event = TaskExit::new();
        task.id.clone_into(&mut event.container_id);
        event.id = match found {
            Found::Task(task) => task.id.clone(),
            Found::Exec(_, exec) => exec.process.id().to_owned(),
        };
        event.pid = self.pid();
        event.exit_status = exit.code;
        event.exited_at = Some(timestamp(exit.at)).into();
        self.events.send(&Event::Exit(event));
    }

    /// Waits for the VM's end: then everything in it has ended.
    async fn watch(self: Arc<Self>, vm: Vm) {
        let why = vm.ended().await;
        let tasks: Vec<_> = lock(&self.inner).tasks.values().cloned().collect();
        let (sandbox, containers): (Vec<_>, Vec<_>) = tasks.into_iter().partition(|task| task.owns_vm);
        for task in containers.into_iter().chain(sandbox) {
            let execs: Vec<_> = lock(&task.execs).values().cloned().collect();
            for exec in execs {
                self.end_with_vm(Found::Exec(task.clone(), exec), &why);
            }
            self.end_with_vm(Found::Task(task), &why);
        }
    }

    fn end_with_vm(&self, found: Found, why: &str) {
        let exit = Exit::now(128 + KILL);
        // What was never started has no end to tell; its Start says why.
        if matches!(found.process().state(), State::Created) && found.task().container.is_some() {
            return;
        }
        if found.process().stop(exit) {
            if let Found::Task(task) = &found {
                task.leave_message(&format!("ended with its VM: {why}"));
            }
            self.tell_exit(&found, exit);
        }
    }

    /// Registers a further process of a container. The contract's list is the guest's business.
    ///
    /// # Errors
    /// [`ShimError`].
    pub fn exec(&self, id: &str, exec: &str, args: Vec<String>, stdio: Stdio) -> Result<(), ShimError> {
        let Found::Task(task) = self.find(id, "")? else {
            return Err(ShimError::NotFound { what: "task", id: id.to_owned() });
        };
        let Some(container) = &task.container else {
            return Err(ShimError::Unimplemented("nothing can be started in a pod's sandbox: it is the VM".to_owned()));
        };
        // The guest would give it an empty stdin; whoever types should know.
        let (_, bound) = self.vm()?;
        if !stdio.stdin.is_empty() && bound.contract.containers.get(container).is_some_and(|c| !c.stdin.allowed()) {
            return Err(ShimError::Refused(format!(
                "stdin of container {container} is closed by the contract (stdin = deny); leave out -i, or write `stdin: true` for the container in its manifest"
            )));
        }
        crate::bootstrap::check_id(exec).map_err(|error| ShimError::InvalidArgument(error.to_string()))?;
        task.process.check_runs()?;
        let mut execs = lock(&task.execs);
        if execs.contains_key(exec) {
            return Err(ShimError::AlreadyExists { what: "exec", id: exec.to_owned() });
        }
        let streams = Streams::open(&stdio)?;
        let process = Process::new(exec, stdio, Some(streams));
        execs.insert(exec.to_owned(), Arc::new(Exec { args, process }));
        drop(execs);
        let mut event = TaskExecAdded::new();
        id.clone_into(&mut event.container_id);
        exec.clone_into(&mut event.exec_id);
        self.events.send(&Event::ExecAdded(event));
        Ok(())
    }

    /// Sends a signal. Any signal to the sandbox that ends processes ends the VM.
    ///
    /// # Errors
    /// [`ShimError::Finished`] when the process has ended, which containerd takes as done.
    pub async fn kill(self: &Arc<Self>, id: &str, exec: &str, number: u32, all: bool) -> Result<(), ShimError> {
        let found = self.find(id, exec)?;
        let process = found.process();
        match process.state() {
            State::Stopped(_) => return Err(ShimError::Finished { id: process.id().to_owned() }),
            // There is no process yet: what ends processes ends it.
            State::Created if number == KILL || number == TERM => {
                let exit = Exit::now(128 + number);
                if process.stop(exit) {
                    self.tell_exit(&found, exit);
                }
                if found.task().owns_vm
                    && exec.is_empty()
                    && let Ok((vm, _)) = self.vm()
                {
                    vm.stop().await;
                }
                return Ok(());
            }
            State::Created => return process.check_runs(),
            State::Starting | State::Running => {}
        }
        let (vm, _) = self.vm()?;
        let Some(container) = &found.task().container else {
            vm.stop().await;
            // Whoever watches the VM tells of it in a moment; a Delete that follows finds it ended.
            let _ = tokio::time::timeout(DRAIN, process.ended()).await;
            return Ok(());
        };
        let name = ProcessName { container: container.clone(), exec: exec.to_owned() };
        let told = match vm.agent_now() {
            Some(agent) => signal(&agent, &name, number, all).await,
            None => Err(ttrpc::Error::LocalClosed),
        };
        let error = match told {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // In the guest it has just ended, or has not begun: that is known here in a moment.
        let answered = CallError::of(&error);
        if process.state() == State::Starting && (number == KILL || number == TERM) {
            let exit = Exit::now(128 + number);
            if process.stop(exit) {
                self.tell_exit(&found, exit);
            }
            return Ok(());
        }
        match answered {
            Some(answer) => {
                use belljar_guest_api::status::Code;
                if matches!(answer.code, Code::NotFound | Code::FailedPrecondition) {
                    return Err(ShimError::Finished { id: process.id().to_owned() });
                }
                Err(ShimError::of_guest("signal", &answer))
            }
            None if number == KILL => {
                tracing::warn!(%error, "the guest does not take SIGKILL; its VM is ended");
                vm.stop().await;
                Ok(())
            }
            None => Err(ShimError::Unavailable(format!("the guest does not answer: {error}"))),
        }
    }

    /// Forgets a task or an exec that has ended.
    ///
    /// # Errors
    /// [`ShimError::State`] while it runs.
    pub async fn delete(&self, id: &str, exec: &str) -> Result<Exit, ShimError> {
        let found = self.find(id, exec)?;
        let exit = found.process().check_over()?.unwrap_or_else(|| Exit::now(0));
        let pid = self.pid();
        if let Some(streams) = &found.process().streams {
            streams.drain(DRAIN).await;
        }
        match &found {
            Found::Exec(task, _) => {
                lock(&task.execs).remove(exec);
            }
            Found::Task(task) => {
                if task.owns_vm
                    && let Ok((vm, _)) = self.vm()
                {
                    vm.stop().await;
                }
                let mut inner = lock(&self.inner);
                if inner.tasks.remove(id).is_some() {
                    if task.owns_vm {
                        inner.vm = None;
                    }
                    let mut event = TaskDelete::new();
                    id.clone_into(&mut event.container_id);
                    event.pid = pid;
                    event.exit_status = exit.code;
                    event.exited_at = Some(timestamp(exit.at)).into();
                    self.events.send(&Event::Delete(event));
                }
            }
        }
        Ok(exit)
    }

    /// Sets the size of a process's terminal, now or as soon as it runs.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn resize(&self, id: &str, exec: &str, columns: u32, rows: u32) -> Result<(), ShimError> {
        let found = self.find(id, exec)?;
        let process = found.process();
        if !process.stdio.terminal {
            return Err(ShimError::Refused(format!("{} has no terminal", process.id())));
        }
        match process.state() {
            State::Created | State::Starting => {
                process.keep_size(columns, rows);
                Ok(())
            }
            State::Stopped(_) => Err(ShimError::Finished { id: process.id().to_owned() }),
            State::Running => {
                let (vm, _) = self.vm()?;
                let agent = vm.agent().await?;
                let container = found.task().container.clone().unwrap_or_default();
                let name = ProcessName { container, exec: exec.to_owned() };
                match resize(&agent, &name, columns, rows).await {
                    Ok(()) => Ok(()),
                    Err(error) => Err(guest_error(&vm, "resize", &error).await),
                }
            }
        }
    }

    /// The VM and its contract.
    ///
    /// # Errors
    /// [`ShimError::Unavailable`] before the first Create, or after the last Delete.
    pub fn vm(&self) -> Result<(Vm, Arc<Bound>), ShimError> {
        lock(&self.inner).vm.clone().ok_or_else(|| ShimError::Unavailable("the pod has no VM".to_owned()))
    }

    /// Whether no task is left.
    pub fn is_empty(&self) -> bool {
        lock(&self.inner).tasks.is_empty()
    }

    /// Ends the VM, and with it everything that runs.
    pub async fn end(&self) {
        if let Ok((vm, _)) = self.vm() {
            vm.stop().await;
        }
        // Whoever watches the VM tells of the ends.
        tokio::task::yield_now().await;
        self.events.flush(Duration::from_secs(1)).await;
    }

    /// Waits until containerd has all events.
    pub async fn flush(&self, limit: Duration) {
        self.events.flush(limit).await;
    }

    fn create_event(&self, task: &Task) -> TaskCreate {
        let mut io = TaskIO::new();
        let stdio = &task.process.stdio;
        stdio.stdin.clone_into(&mut io.stdin);
        stdio.stdout.clone_into(&mut io.stdout);
        stdio.stderr.clone_into(&mut io.stderr);
        io.terminal = stdio.terminal;
        let mut event = TaskCreate::new();
        task.id.clone_into(&mut event.container_id);
        event.bundle = task.bundle.to_string_lossy().into_owned();
        event.io = Some(io).into();
        event.pid = self.pid();
        event
    }

    fn start_event(&self, task: &Task) -> TaskStart {
        let mut event = TaskStart::new();
        task.id.clone_into(&mut event.container_id);
        event.pid = self.pid();
        event
    }

    fn exec_started(&self, task: &Task, exec: &Exec) -> TaskExecStarted {
        let mut event = TaskExecStarted::new();
        task.id.clone_into(&mut event.container_id);
        exec.process.id().clone_into(&mut event.exec_id);
        event.pid = self.pid();
        event
    }
}

impl Task {
    /// The container's name in the contract; none for the sandbox.
    pub fn container_name(&self) -> Option<&str> {
        self.container.as_deref()
    }

    /// Writes the message that the kubelet shows for an ended container, where it asked for one.
    fn leave_message(&self, message: &str) {
        let Some(path) = self.bundle_config.mount_source("/dev/termination-log") else { return };
        if let Err(error) = write_message(path, message) {
            tracing::warn!(path = %path.display(), %error, "termination message not written");
        }
    }
}

/// Only into a file that is there: the kubelet makes it.
fn write_message(path: &Path, message: &str) -> std::io::Result<()> {
    use rustix::fs::{Mode, OFlags, open};
    use std::io::Write as _;
    let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(open(path, flags, Mode::empty())?);
    file.write_all(message.as_bytes())
}

fn only_container(bound: &Bound) -> Result<String, ShimError> {
    let mut names = bound.contract.containers.keys();
    match (names.next(), names.next()) {
        (Some(name), None) => Ok(name.clone()),
        _ => Err(ShimError::Refused(
            "the contract has several containers; say which one with the annotation io.kubernetes.cri.container-name"
                .to_owned(),
        )),
    }
}

async fn signal(agent: &AgentClient, name: &ProcessName, number: u32, all: bool) -> ttrpc::Result<()> {
    let mut request = SignalContainerRequest::new();
    name.container.clone_into(&mut request.name);
    name.exec.clone_into(&mut request.exec);
    request.signal = number;
    request.all = all;
    let call = agent.signal_container(context::with_duration(SIGNAL_LIMIT * 2), &request);
    match tokio::time::timeout(SIGNAL_LIMIT, call).await {
        Ok(answer) => answer.map(|_| ()),
        Err(_) => Err(ttrpc::Error::Others("no answer to a signal".to_owned())),
    }
}

async fn resize(agent: &AgentClient, name: &ProcessName, columns: u32, rows: u32) -> ttrpc::Result<()> {
    let mut request = ResizeTerminalRequest::new();
    name.container.clone_into(&mut request.name);
    name.exec.clone_into(&mut request.exec);
    request.columns = columns;
    request.rows = rows;
    agent.resize_terminal(context::with_duration(SIGNAL_LIMIT), &request).await.map(|_| ())
}

/// What a failed call means: the guest's answer, or why its VM has ended.
async fn guest_error(vm: &Vm, what: &str, error: &ttrpc::Error) -> ShimError {
    match CallError::of(error) {
        Some(answer) => ShimError::of_guest(what, &answer),
        None => match tokio::time::timeout(Duration::from_secs(3), vm.ended()).await {
            Ok(why) => ShimError::Unavailable(format!("{what}: {why}")),
            Err(_) => ShimError::Unavailable(format!("{what}: lost the guest's agent: {error}")),
        },
    }
}
