//! The life of a sidecar, from its start to its end.

use super::AppError;
use super::control::control;
use super::cut;
use super::end::{Signals, patience};
use super::parts::Running;
use super::probe::Probe;
use super::storage::{self, Storage};
use crate::admin;
use crate::audit::node::{Settings, Watch};
use crate::capture::{Capture, Parts, TransactionLimits};
use crate::changelog::Horizon;
use crate::config::{Config, SinkConfig, Transactions};
use crate::export::{ExportOptions, Exporter, ExporterHandle, Limits, Markers, Schedule, SinkOptions};
use crate::metrics;
use crate::proxy::{Proxy, ProxyOptions};
use crate::store::{Login, Privileged};
use crate::wire::hosts::HostTable;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Pause between tries of a recovery that could not read the store.
const AGAIN: Duration = Duration::from_secs(2);
/// How often ages and free space are looked at.
const SAMPLE: Duration = Duration::from_secs(1);
/// How long the admin server may take to answer what was asked before the end.
const ADMIN_END: Duration = Duration::from_secs(2);

/// Starts everything, serves until told to end, ends everything.
pub(super) async fn serve(config: Config) -> Result<(), AppError> {
    // Two tokens: `end` is the wish; `last` ends what must outlive the drain.
    let (end, last) = (CancellationToken::new(), CancellationToken::new());
    tokio::spawn(Signals::listen()?.watch(end.clone(), patience(&config)));
    let password = config.store.password()?;
    let for_open = config.clone();
    let storage = blocking(move || storage::open(&for_open)).await?;
    storage.announce().await?;
    let horizon = Horizon::closed("the node has not answered yet");
    let exporter = start_exporter(&config, &storage, &horizon).await?;
    let probe = Probe::start(&config, last.clone());
    let running = Arc::new(Running::new(config, storage, exporter, horizon, probe));
    let mut admin = start_admin(&running, &last).await?;
    tokio::spawn(sample(Arc::clone(&running), last.clone()));
    tokio::spawn(tell_end(Arc::clone(&running), end.clone()));

    let served = tokio::select! {
        served = start_and_serve(&running, password, &end, &last) => served,
        _ended = &mut admin => Err(AppError::Ended("the admin server")),
    };
    end.cancel();
    let closed = finish(running, admin, &last).await;
    served.and(closed)
}

/// Runs blocking work off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AppError> + Send + 'static,
) -> Result<T, AppError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => {
            tracing::error!(%error, "a part failed in its start or end");
            Err(AppError::Ended("a part"))
        }
    }
}

async fn start_exporter(
    config: &Config,
    storage: &Storage,
    horizon: &Arc<Horizon>,
) -> Result<Arc<ExporterHandle>, AppError> {
    let windows = &config.windows;
    let mut options = ExportOptions::folder(config.log.data.clone(), config.export.dir.clone());
    options.sinks = sinks(config);
    options.markers = Markers::new(config.markers.clone());
    if !windows.schedule.is_empty() {
        let schedule = Schedule::new(&windows.schedule, &windows.time_zone);
        options.schedule = Some(schedule.map_err(AppError::Schedule)?);
    }
    options.horizon = Arc::clone(horizon);
    options.limits = Limits {
        max_bytes: windows.max_bytes,
        max_records: windows.max_records,
        max_age_ms: windows.max_age_ms,
        idle_ms: windows.idle_ms,
        min_age_ms: windows.min_age_ms,
        min_bytes: windows.min_bytes,
        settle_ms: windows.settle_ms,
    };
    let storage = storage.clone();
    let (log, disk, clock) = (storage.log, storage.disk, storage.clock);
    blocking(move || Ok(Arc::new(Exporter::spawn(options, log, disk, clock)?))).await
}

/// The folder of `export.dir`, if there is one, and those of `[sinks.NAME]`.
fn sinks(config: &Config) -> Vec<SinkOptions> {
    let (dir, latest) = (config.export.dir.clone(), config.export.latest);
    let folder = (!dir.as_os_str().is_empty()).then(|| ("folder", SinkConfig { latest, dir, ..SinkConfig::default() }));
    let more = config.sinks.iter().map(|(name, sink)| (name.as_str(), sink.clone()));
    folder
        .into_iter()
        .chain(more)
        .map(|(name, config)| SinkOptions { name: metrics::sink_name(name), config })
        .collect()
}

async fn start_admin(running: &Arc<Running>, last: &CancellationToken) -> Result<JoinHandle<()>, AppError> {
    let settings = running.config.admin.clone();
    let address = settings.listen.to_string();
    let failed = |source| AppError::AdminListen { address: address.clone(), source };
    let listener = TcpListener::bind(&address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    tracing::info!(admin = %bound, "health, metrics and control");
    let (control, stop) = (control(running), last.clone().cancelled_owned());
    Ok(tokio::spawn(async move {
        if let Err(error) = admin::serve(listener, &settings, control, stop).await {
            tracing::error!(%error, "the admin server ended");
        }
    }))
}

/// Balancers look at `/readyz`: it says no from the first moment of the drain.
async fn tell_end(running: Arc<Running>, end: CancellationToken) {
    end.cancelled().await;
    running.ending();
}

async fn sample(running: Arc<Running>, last: CancellationToken) {
    metrics::STARTED_SECONDS.set_ms(running.storage.clock.wall_ms());
    while tokio::time::timeout(SAMPLE, last.cancelled()).await.is_err() {
        running.sample();
        metrics::READY.set_flag(admin::ready(&running.reasons()));
    }
}

/// Recovers, then serves applications until `end`, then lets them finish.
async fn start_and_serve(
    running: &Arc<Running>,
    password: Option<crate::config::Secret>,
    end: &CancellationToken,
    last: &CancellationToken,
) -> Result<(), AppError> {
    let node = privileged(running, password).await?;
    let capture = Arc::new(start_capture(running, node.clone())?);
    let recovered = CancellationToken::new();
    start_watch(running, &capture, &recovered, last);
    if unless(end, recover(&capture)).await.is_none() {
        return Ok(());
    }
    recovered.cancel();
    let looks = tokio::spawn(Arc::clone(&capture).looks(end.clone().cancelled_owned()));
    tokio::spawn(Arc::clone(&capture).tend(end.clone().cancelled_owned()));
    let proxy = Proxy::bind(proxy_options(running), Arc::clone(&capture)).await?;
    let listen = proxy.local_addr();
    running.serving(listen);
    tracing::info!(%listen, upstream = %running.config.proxy.upstream, "applications are served");
    let keeper = tokio::spawn(super::keep::start(running, capture, node, end.clone()).await?.run());
    let served = tokio::spawn(proxy.serve(end.clone())).await;
    if let Err(error) = keeper.await {
        tracing::error!(%error, "the keeper of the log failed; the next start goes on where it was");
    }
    if let Err(error) = looks.await {
        tracing::error!(%error, "the looks at writes of unknown outcome failed; the next start does them");
    }
    match served {
        Ok(drained) => {
            tracing::info!(ended = drained.ended, cut_off = drained.cut_off, "applications are let go");
            Ok(())
        }
        Err(error) => {
            tracing::error!(%error, "the listener failed");
            Err(AppError::Ended("the listener"))
        }
    }
}

/// Watches the node: how far windows may go, and what it may have lost.
fn start_watch(running: &Running, capture: &Arc<Capture>, recovered: &CancellationToken, last: &CancellationToken) {
    let (config, storage) = (&running.config, &running.storage);
    let settings = Settings {
        address: config.proxy.upstream.to_string(),
        connect: Duration::from_millis(config.store.connect_timeout_ms),
        need_ms: config.windows.settle_ms.max(config.store.journal_ms),
        windows_end: running.exporter.status().closed_lsn,
    };
    let (log, index) = (Arc::clone(&storage.log), Arc::clone(&storage.index));
    let watch = Watch::new(settings, Arc::clone(capture), log, index, Arc::clone(&running.horizon));
    running.watched_by(Arc::clone(&watch));
    tokio::spawn(watch.run(recovered.clone().cancelled_owned(), last.clone().cancelled_owned()));
}

/// The sidecar's own client of the node.
async fn privileged(running: &Running, password: Option<crate::config::Secret>) -> Result<Privileged, AppError> {
    let config = &running.config;
    let login = password.as_ref().map(|password| Login {
        username: &config.store.username,
        source: &config.store.auth_source,
        password: password.reveal(),
    });
    let connect = Duration::from_millis(config.store.connect_timeout_ms);
    Ok(Privileged::new(&config.store_uri(), login, connect).await?)
}

fn start_capture(running: &Running, privileged: Privileged) -> Result<Capture, AppError> {
    let (config, storage) = (&running.config, &running.storage);
    Ok(Capture::new(Parts {
        log: Arc::clone(&storage.log),
        index: Arc::clone(&storage.index),
        privileged: Arc::new(privileged),
        clock: Arc::clone(&storage.clock),
        disk: Arc::clone(&storage.disk),
        intents: storage.data.intents(),
        epoch: storage.opened.epoch,
        second_look: Duration::from_millis(config.capture.second_look_ms),
        transactions: TransactionLimits {
            lifetime: Duration::from_millis(config.capture.transaction_lifetime_ms),
            wait: Duration::from_millis(config.capture.transaction_wait_ms),
        },
    })?)
}

/// Verifies what the last process left open; a store that is away is waited for.
async fn recover(capture: &Capture) -> usize {
    loop {
        match capture.recover().await {
            Ok(recovered) => return recovered,
            Err(error) => {
                metrics::VERIFY_FAILURES.inc();
                tracing::warn!(%error, "recovery: the store cannot be read; trying again");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

async fn unless<T>(end: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = end.cancelled() => None,
    }
}

fn proxy_options(running: &Running) -> ProxyOptions {
    let (proxy, limits) = (&running.config.proxy, &running.config.limits);
    let mut options = ProxyOptions::new(&proxy.listen.to_string(), &proxy.upstream.to_string());
    options.advertise = proxy.advertise.as_ref().map(ToString::to_string);
    let hosts: Vec<_> = proxy.hosts.iter().map(|(node, shown)| (node.to_string(), shown.to_string())).collect();
    options.hosts = HostTable::new(hosts.iter().map(|(node, shown)| (node.as_str(), shown.as_str())));
    options.max_connections = usize::try_from(limits.connections).unwrap_or(usize::MAX);
    options.max_message_bytes = limits.message_bytes;
    options.max_inflight_bytes = limits.inflight_bytes;
    options.idle = Duration::from_millis(limits.idle_ms);
    options.stall = Duration::from_millis(limits.stall_ms);
    options.connect_timeout = Duration::from_millis(running.config.store.connect_timeout_ms);
    options.drain = Duration::from_millis(proxy.drain_ms);
    options.transactions = running.config.capture.transactions == Transactions::Capture;
    options.cut = cut::on_the_wire(&running.exporter, &running.horizon);
    options
}

/// Ends what outlives the drain: exporter, admin, log.
async fn finish(running: Arc<Running>, mut admin: JoinHandle<()>, last: &CancellationToken) -> Result<(), AppError> {
    let exporter = Arc::clone(&running.exporter);
    blocking(move || {
        exporter.shutdown();
        Ok(())
    })
    .await?;
    last.cancel();
    if !admin.is_finished() && tokio::time::timeout(ADMIN_END, &mut admin).await.is_err() {
        admin.abort();
    }
    let log = Arc::clone(&running.storage.log);
    blocking(move || Ok(log.close()?)).await
}
