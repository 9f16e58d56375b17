//! TLS and SASL of a Kafka sink: what the options ask for is in this program, is complete, and can be read.
//!
//! The client tells such mistakes by OpenSSL's numbers, late, or not at all; here each is told by the name of its option, before
//! anything is connected to. The value of a secret is never told.

use super::super::SinkError;
use super::settings::refused;
use crate::disk::Disk;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Words in the names of properties that hold a secret.
const SECRET: &[&str] = &["password", "passphrase", "secret", "key.pem", "jaas", "sasl.oauthbearer.config"];
/// In the value of a property of any name.
const PRIVATE_KEY: &str = "PRIVATE KEY-----";

/// Properties that name a file; the authorities may be a folder.
const FILES: &[&str] =
    &[AUTHORITIES, "ssl.certificate.location", "ssl.crl.location", "ssl.key.location", "ssl.keystore.location"];
const AUTHORITIES: &str = "ssl.ca.location";
/// Authorities are those that the machine trusts. OpenSSL, which is linked statically, does not know where they are.
const PROBE: &str = "probe";

/// The property, by both its names.
const MECHANISM: &[&str] = &["sasl.mechanism", "sasl.mechanisms"];
const SCRAM: &[&str] = &["SCRAM-SHA-256", "SCRAM-SHA-512"];

/// This program has OpenSSL.
const BUILT: bool = cfg!(feature = "kafka-tls");
const BUILD: &str = "which this program was built without: build it with `--features kafka-tls`";

type Options = BTreeMap<String, String>;

/// Whether a value must not stand in the settings file, nor be told.
pub(super) fn is_secret(name: &str, value: &str) -> bool {
    SECRET.iter().any(|word| name.contains(word)) || value.contains(PRIVATE_KEY)
}

/// Names of Java's client that ours does not have.
pub(super) fn of_java(sink: &str, options: &Options) -> Result<(), SinkError> {
    for name in options.keys() {
        if name == "sasl.jaas.config" {
            return Err(refused(
                sink,
                name,
                "is of Java's client: set `sasl.username` and `sasl.password` in `options_file`",
            ));
        }
        if name.starts_with("ssl.truststore.") {
            return Err(refused(
                sink,
                name,
                "is of Java's client: name a PEM file of authorities with `ssl.ca.location`",
            ));
        }
    }
    Ok(())
}

/// Checks all options about TLS and SASL, and adds where the machine's authorities are.
pub(super) fn prepare(sink: &str, disk: &dyn Disk, options: &mut Options) -> Result<(), SinkError> {
    let protocol = options.get("security.protocol").map_or("PLAINTEXT", String::as_str).to_ascii_uppercase();
    let (tls, sasl) = (protocol.ends_with("SSL"), protocol.starts_with("SASL_"));
    if tls && !BUILT {
        return Err(refused(sink, "security.protocol", &format!("is {protocol}: this needs TLS, {BUILD}")));
    }
    if let Some(name) = options.keys().find(|name| name.starts_with("ssl.") && !tls) {
        let why = format!("is set, but with `security.protocol` {protocol} nothing is encrypted: SSL and SASL_SSL are");
        return Err(refused(sink, name, &why));
    }
    mechanism(sink, &protocol, sasl, options)?;
    for name in FILES {
        if let Some(path) = options.get(*name).filter(|path| path.as_str() != PROBE) {
            readable(disk, name, path).map_err(|error| refused(sink, name, &format!("cannot be used: {error}")))?;
        }
    }
    if tls {
        options.entry(AUTHORITIES.to_owned()).or_insert_with(|| PROBE.to_owned());
    }
    Ok(())
}

fn mechanism(sink: &str, protocol: &str, sasl: bool, options: &Options) -> Result<(), SinkError> {
    let mut told = MECHANISM.iter().filter_map(|name| Some((*name, options.get(*name)?.as_str())));
    let (name, mechanism) = match told.next() {
        Some((name, _)) if !sasl => {
            let why = format!("is set, but `security.protocol` is {protocol}: SASL_SSL and SASL_PLAINTEXT log in");
            return Err(refused(sink, name, &why));
        }
        Some(found) => found,
        None if sasl => {
            return Err(refused(sink, "sasl.mechanism", "is missing: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"));
        }
        None => return Ok(()),
    };
    let scram = SCRAM.contains(&mechanism);
    if scram && !BUILT {
        return Err(refused(sink, name, &format!("is {mechanism}: this needs OpenSSL, {BUILD}")));
    }
    if !scram && mechanism != "PLAIN" {
        let why = format!("is {mechanism}: this program has PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512");
        return Err(refused(sink, name, &why));
    }
    match ["sasl.username", "sasl.password"].into_iter().find(|name| options.get(*name).is_none_or(String::is_empty)) {
        Some(name) => Err(refused(sink, name, "is missing: it belongs into `options_file`, or into the environment")),
        None => Ok(()),
    }
}

fn readable(disk: &dyn Disk, name: &str, path: &str) -> io::Result<()> {
    match disk.read(Path::new(path)) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory && name == AUTHORITIES => {
            disk.list(Path::new(path)).map(drop)
        }
        other => other.map(drop),
    }
}
