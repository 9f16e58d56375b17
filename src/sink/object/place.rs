//! From a URL, the environment and options to a client of the store. Nothing is connected to.
//!
//! Credentials come from the environment variables of each store's own tools (`AWS_…`, `GOOGLE_…`, `AZURE_…`), from the machine's
//! identity, or from `options_file`. Names of options are the configuration keys of the `object_store` crate:
//! <https://docs.rs/object_store/0.14/object_store/aws/enum.AmazonS3ConfigKey.html> and its likes.

use super::super::SinkError;
use super::super::options::Options;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectStore, ObjectStoreScheme, RetryConfig};
use std::sync::Arc;
use std::time::Duration;

/// A store, and the prefix in it.
pub(super) type Place = (Arc<dyn ObjectStore>, Path);

/// The client repeats a request so often by itself; above it stands the export's own backoff.
fn retry() -> RetryConfig {
    let (init_backoff, max_backoff) = (Duration::from_millis(100), Duration::from_secs(2));
    let backoff = BackoffConfig { init_backoff, max_backoff, base: 2.0 };
    RetryConfig { backoff, max_retries: 3, retry_timeout: Duration::from_secs(15) }
}

/// Makes the client.
///
/// # Errors
/// [`SinkError::Refused`]: a URL or an option that cannot be used.
pub(super) fn client(sink: &str, url: &str, options: &Options) -> Result<Place, SinkError> {
    // The one TLS provider of the program; an error only says that it is there already.
    rustls::crypto::ring::default_provider().install_default().ok();
    let bad = |what: String| SinkError::Refused(format!("sinks.{sink}.url: {what}"));
    let shape = "expected s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///PATH";
    let parsed = reqwest::Url::parse(url).map_err(|error| bad(format!("{error}; {shape}")))?;
    if parsed.query().is_some() || parsed.password().is_some() {
        return Err(bad(
            "a URL with credentials or a query; those belong into the environment or `options_file`".into()
        ));
    }
    let (scheme, prefix) = ObjectStoreScheme::parse(&parsed).map_err(|_unknown| bad(shape.into()))?;
    // Each store has a builder with a type of its own.
    macro_rules! build {
        ($builder:ty) => {{
            let mut builder = <$builder>::from_env().with_url(url).with_retry(retry());
            for (name, value) in options.iter() {
                let key = name.to_ascii_lowercase().parse().map_err(|_unknown| unknown(sink, name))?;
                builder = builder.with_config(key, value);
            }
            Arc::new(builder.build().map_err(|error| bad(super::trouble::plain(&error.to_string())))?)
        }};
    }
    let store: Arc<dyn ObjectStore> = match scheme {
        ObjectStoreScheme::AmazonS3 => build!(AmazonS3Builder),
        ObjectStoreScheme::GoogleCloudStorage => build!(GoogleCloudStorageBuilder),
        ObjectStoreScheme::MicrosoftAzure => build!(MicrosoftAzureBuilder),
        ObjectStoreScheme::Local => match options.iter().next() {
            Some((name, _)) => return Err(unknown(sink, name)),
            None => Arc::new(LocalFileSystem::new().with_fsync(true)),
        },
        _ => return Err(bad(shape.into())),
    };
    Ok((store, prefix))
}

fn unknown(sink: &str, name: &str) -> SinkError {
    SinkError::Refused(format!("sinks.{sink}.options: `{name}` is no option of this kind of store"))
}
