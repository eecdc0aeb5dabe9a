//! The control plane: the only async runtime, on a thread of its own. Admin HTTP, metrics, signals.

mod http;
mod metrics;
mod shortages;

use std::thread;

use anyhow::{Context, Result, bail};
use corecast_shard::Order;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::node::Running;
use corecast_server::config::{Admin, Settings};

/// The running control plane.
#[derive(Debug)]
pub(crate) struct Control {
    /// Where it answers, for people.
    pub(crate) address: String,
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Control {
    /// Ends it.
    pub(crate) fn stop(self) {
        // Its thread may have ended already.
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A control plane that holds its address and sees signals, and waits for shards to control.
pub(crate) struct Prepared {
    runtime: tokio::runtime::Runtime,
    listener: Listener,
    address: String,
    signals: [Signal; 2],
}

/// Takes the admin address and watches signals; before the first client connects.
///
/// # Errors
/// If the admin address can't be used.
pub(crate) fn prepare(settings: &Settings) -> Result<Prepared> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the control plane's runtime can't be built")?;
    let (listener, address) = runtime.block_on(listener(settings))?;
    let signals = runtime.block_on(async { signals() })?;
    Ok(Prepared { runtime, listener, address, signals })
}

impl Prepared {
    /// Controls these shards, on a thread of its own.
    ///
    /// # Errors
    /// If there can be no further thread.
    pub(crate) fn start(self, running: Running) -> Result<Control> {
        let Self { runtime, listener, address, signals } = self;
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            let watched = running.clone();
            runtime.spawn(async move { watch(signals, &watched).await });
            let watched = running.clone();
            runtime.spawn(async move { shortages::watch(&watched).await });
            runtime.block_on(async move {
                let app = http::app(running);
                let served = async {
                    match listener {
                        Listener::Tcp(listener) => axum::serve(listener, app).await,
                        Listener::Unix(listener) => axum::serve(listener, app).await,
                    }
                };
                tokio::select! {
                    result = served => if let Err(error) = result { tracing::error!("admin: {error}") },
                    _ = stopped => {}
                }
            });
        };
        let thread = thread::Builder::new().name("control".to_owned()).spawn(run);
        Ok(Control { address, stop, thread: thread.context("the control plane's thread can't be started")? })
    }
}

async fn listener(settings: &Settings) -> Result<(Listener, String)> {
    match &settings.admin {
        Admin::Tcp(address) => {
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("admin can't listen on {address}"))?;
            let address = listener.local_addr().context("the admin listener has no address")?;
            if !address.ip().is_loopback() {
                tracing::warn!(
                    "admin listens on {address}: whoever reaches it sees metrics; loopback or unix: is safer"
                );
            }
            Ok((Listener::Tcp(listener), format!("http://{address}/")))
        }
        Admin::Unix(path) => {
            // A socket that an earlier run left behind; anything else is not ours to remove.
            if std::fs::symlink_metadata(path)
                .is_ok_and(|it| std::os::unix::fs::FileTypeExt::is_socket(&it.file_type()))
            {
                if std::os::unix::net::UnixStream::connect(path).is_ok() {
                    bail!("admin can't listen on {}: another server does", path.display());
                }
                let _ = std::fs::remove_file(path);
            }
            let listener = UnixListener::bind(path)
                .with_context(|| format!("admin can't listen on {}", path.display()))?;
            Ok((Listener::Unix(listener), format!("unix:{}", path.display())))
        }
    }
}

/// The signals that end the node; watched from before the first connection on.
fn signals() -> Result<[Signal; 2]> {
    let watch = |kind| signal(kind).context("signals can't be watched");
    Ok([watch(SignalKind::terminate())?, watch(SignalKind::interrupt())?])
}

/// The first signal drains, the second ends at once.
async fn watch(mut signals: [Signal; 2], running: &Running) {
    let [terminate, interrupt] = &mut signals;
    let mut next = async || {
        tokio::select! { _ = terminate.recv() => "SIGTERM", _ = interrupt.recv() => "SIGINT" }
    };
    let first = next().await;
    tracing::info!("{first}: draining {} connections; a second signal ends at once", running.node.clients());
    running.tell(Order::Drain);
    let second = next().await;
    tracing::warn!("{second} again: ending at once");
    running.tell(Order::Stop);
}

impl Running {
    /// Tells all shards.
    pub(crate) fn tell(&self, order: Order) {
        self.node.order(order);
        for waker in self.wakers.iter() {
            waker.wake();
        }
    }
}
