//! The store and the two proxies before it: started, watched, ended with the bench.

use crate::Fallible;
use crate::load::Connection;
use crate::options::Options;
use crate::proc::Cpu;
use bson::rawdoc;
use clap::ValueEnum;
use std::ffi::OsStr;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to answer its first ping.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long servers may take to become idle between cells.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Who is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// The store itself.
    Direct,
    /// HAProxy in TCP mode.
    Haproxy,
    /// Tidelog, durability `always`.
    Tidelog,
}

impl Target {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Self; 3] = [Self::Direct, Self::Haproxy, Self::Tidelog];

    /// The word in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Haproxy => "haproxy",
            Self::Tidelog => "tidelog",
        }
    }
}

/// A process that ends with this value.
#[derive(Debug)]
struct Server {
    child: Child,
    address: SocketAddr,
    version: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// All that runs.
#[derive(Debug)]
pub(crate) struct Servers {
    // Proxies before the store, so that they are dropped first.
    tidelog: Option<Server>,
    haproxy: Option<Server>,
    store: Server,
    /// Where data and log lie.
    pub(crate) dir: PathBuf,
}

impl Servers {
    /// Starts what the options ask for, in an emptied folder.
    pub(crate) async fn start(options: &Options) -> Fallible<Self> {
        let dir = std::path::absolute(&options.dir)?;
        if dir.try_exists()? {
            std::fs::remove_dir_all(&dir)?;
        }
        std::fs::create_dir_all(&dir)?;
        let store = start_store(options, &dir).await?;
        let targets = options.targets();
        let haproxy =
            if targets.contains(&Target::Haproxy) { Some(start_haproxy(&dir, store.address).await?) } else { None };
        let tidelog = if targets.contains(&Target::Tidelog) {
            Some(start_tidelog(options, &dir, store.address).await?)
        } else {
            None
        };
        Ok(Self { tidelog, haproxy, store, dir })
    }

    fn server(&self, target: Target) -> Option<&Server> {
        match target {
            Target::Direct => None,
            Target::Haproxy => self.haproxy.as_ref(),
            Target::Tidelog => self.tidelog.as_ref(),
        }
    }

    /// Where to send a target's messages.
    pub(crate) fn address(&self, target: Target) -> SocketAddr {
        self.server(target).unwrap_or(&self.store).address
    }

    /// CPU time of the target's proxy so far; nothing for *direct*.
    pub(crate) fn cpu(&self, target: Target) -> Fallible<Cpu> {
        self.server(target).map_or(Ok(Cpu::default()), |server| Cpu::of(server.child.id()))
    }

    /// CPU time of the store so far.
    pub(crate) fn store_cpu(&self) -> Fallible<Cpu> {
        Cpu::of(self.store.child.id())
    }

    /// `name version` of each server.
    pub(crate) fn versions(&self) -> Vec<String> {
        [Some(&self.store), self.haproxy.as_ref(), self.tidelog.as_ref()]
            .into_iter()
            .flatten()
            .map(|server| server.version.clone())
            .collect()
    }

    /// Waits until none of the servers uses more than a tenth of a core, or the time is over.
    pub(crate) async fn settle(&self) -> Fallible<()> {
        let all = || -> Fallible<Cpu> {
            let mut sum = self.store_cpu()?;
            for server in [&self.haproxy, &self.tidelog].into_iter().flatten() {
                sum = sum.and(Cpu::of(server.child.id())?);
            }
            Ok(sum)
        };
        let began = Instant::now();
        let mut before = all()?;
        while began.elapsed() < SETTLE_TIMEOUT {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = all()?;
            if now.since(before) <= Duration::from_millis(20) {
                break;
            }
            before = now;
        }
        Ok(())
    }
}

async fn start_store(options: &Options, dir: &Path) -> Fallible<Server> {
    let binary = store_binary(options)?;
    let version = first_line(&binary, "--version")?;
    let data = dir.join("store");
    std::fs::create_dir_all(&data)?;
    let address = free_address()?;
    let port = address.port().to_string();
    let mut command = Command::new(&binary);
    let mongod = version.starts_with("db version");
    if mongod {
        command.args(["--bind_ip", "127.0.0.1", "--port", &port, "--replSet", "bench", "--dbpath"]).arg(&data);
    } else {
        command.args(["--host", "127.0.0.1", "--port", &port, "--cache-size", "1G", "--log-level", "ERROR"]);
        command.arg("--storage-path").arg(&data);
    }
    let name = if mongod { format!("mongod ({version})") } else { version };
    let server = spawn(command, "store", dir, address, name)?;
    await_ping(&server).await?;
    if mongod {
        let set = rawdoc! { "_id": "bench", "members": [{ "_id": 0_i32, "host": address.to_string() }] };
        let initiate = rawdoc! { "replSetInitiate": set, "$db": "admin" };
        Connection::open(address).await?.command(&initiate).await?;
        await_write(address).await?;
    }
    Ok(server)
}

/// The option, the environment, `mongod` on the path, or what `deploy/lib.sh` installed.
fn store_binary(options: &Options) -> Fallible<PathBuf> {
    if let Some(given) = &options.store_bin {
        return Ok(given.clone());
    }
    if let Some(given) = std::env::var_os("TIDELOG_STORE_BIN").filter(|v| !v.is_empty()) {
        return Ok(given.into());
    }
    if first_line(Path::new("mongod"), "--version").is_ok() {
        return Ok("mongod".into());
    }
    let tools = std::env::var_os("TIDELOG_TOOLS").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/tidelog"));
    let installed = tools.or(home).map(|dir| dir.join("bin/secantusd-rs"));
    match installed {
        Some(path) if path.try_exists()? => Ok(path),
        _ => Err("no store: set TIDELOG_STORE_BIN, or run deploy/demo.sh once, which installs one".into()),
    }
}

async fn start_haproxy(dir: &Path, store: SocketAddr) -> Fallible<Server> {
    let binary = ["haproxy", "/usr/sbin/haproxy"]
        .into_iter()
        .find(|path| first_line(Path::new(path), "-v").is_ok())
        .ok_or("no haproxy: apt-get install haproxy, or leave it out with --targets direct,tidelog")?;
    let version = first_line(Path::new(binary), "-v")?;
    let version = version.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    let address = free_address()?;
    let config = dir.join("haproxy.cfg");
    let text = format!(
        "global\n    maxconn 4096\n\
         defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n\
         frontend bench\n    bind {address}\n    default_backend store\n\
         backend store\n    server store {store}\n"
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new(binary);
    command.arg("-db").arg("-f").arg(&config);
    let server = spawn(command, "haproxy", dir, address, version)?;
    await_ping(&server).await?;
    Ok(server)
}

async fn start_tidelog(options: &Options, dir: &Path, store: SocketAddr) -> Fallible<Server> {
    let given = options.tidelog_bin.as_deref();
    let binary = given.unwrap_or(Path::new(env!("CARGO_BIN_EXE_tidelog")));
    let mut version = first_line(binary, "--version")?;
    if given.is_some() {
        version = format!("{version} (not of this commit: {})", binary.display());
    }
    let (address, admin) = (free_address()?, free_address()?);
    let mut command = Command::new(binary);
    command.arg("run").args(["--listen", &address.to_string(), "--upstream", &store.to_string()]);
    command.args(["--admin", &admin.to_string()]);
    command.arg("--data").arg(dir.join("log")).arg("--export").arg(dir.join("export"));
    command.args(options.tidelog_args.split_whitespace());
    let server = spawn(command, "tidelog", dir, address, version)?;
    await_ping(&server).await?;
    Ok(server)
}

fn spawn(mut command: Command, name: &str, dir: &Path, address: SocketAddr, version: String) -> Fallible<Server> {
    #[allow(clippy::disallowed_methods, reason = "a log file of the bench, not of the product")]
    let log = File::create(dir.join(format!("{name}.txt")))?;
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .map_err(|e| format!("{name} does not start: {e}"))?;
    Ok(Server { child, address, version })
}

async fn await_ping(server: &Server) -> Fallible<()> {
    let ping = rawdoc! { "ping": 1_i32, "$db": "admin" };
    await_command(server.address, &ping).await.map_err(|e| format!("{} does not answer: {e}", server.version).into())
}

async fn await_write(address: SocketAddr) -> Fallible<()> {
    let insert = rawdoc! { "insert": "warm", "documents": [{}], "$db": "bench" };
    await_command(address, &insert).await
}

async fn await_command(address: SocketAddr, body: &bson::RawDocument) -> Fallible<()> {
    let began = Instant::now();
    loop {
        let answered = match Connection::open(address).await {
            Ok(mut connection) => connection.command(body).await,
            Err(error) => Err(error),
        };
        match answered {
            Ok(()) => return Ok(()),
            Err(error) if began.elapsed() > START_TIMEOUT => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// A port of loopback that nobody has just now.
fn free_address() -> Fallible<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// The first line that a program prints when asked for its version.
pub(crate) fn first_line(program: impl AsRef<OsStr>, argument: &str) -> Fallible<String> {
    let output = Command::new(program.as_ref()).arg(argument).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default().trim().to_owned();
    if output.status.success() {
        Ok(line)
    } else {
        Err(format!("{} {argument} failed", program.as_ref().display()).into())
    }
}
