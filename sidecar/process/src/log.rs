//! Logging to standard error, for people or for machines.

use std::{fmt, str::FromStr};
use tracing_subscriber::{
    Layer, Registry,
    filter::{ParseError, Targets},
    layer::SubscriberExt,
    util::{SubscriberInitExt, TryInitError},
};

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Neither `text` nor `json`.
#[derive(Debug, thiserror::Error)]
#[error("the log format must be text or json")]
pub struct UnknownFormat;

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is malformed.
    #[error("failed to read the log filter")]
    Filter(#[from] ParseError),
    /// Something else logs already.
    #[error("failed to install the logger")]
    Install(#[from] TryInitError),
}

/// Starts logging. `filter` is a list of `level` and `target=level`, separated by commas, e.g. `info,hyper=warn`.
pub fn init(filter: &str, format: Format) -> Result<(), LogError> {
    let targets: Targets = filter.parse()?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match format {
        Format::Text => Box::new(lines.with_ansi(false).with_filter(targets)),
        Format::Json => Box::new(lines.json().flatten_event(true).with_filter(targets)),
    };
    tracing_subscriber::registry().with(layer).try_init()?;
    Ok(())
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(UnknownFormat),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_read_as_it_is_written_and_nothing_else_is() {
        for format in [Format::Text, Format::Json] {
            assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
        }
        assert!("JSON ".parse::<Format>().is_err());
    }

    #[test]
    fn a_malformed_filter_is_refused() {
        assert!(matches!(init("conch=loud", Format::Text), Err(LogError::Filter(_))));
    }
}
