//! A strict reader of the `OpenMetrics` text format, as far as it is served: whoever writes anything else panics here.

use std::collections::BTreeMap;

/// A family of metrics.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) help: String,
    pub(crate) unit: String,
    /// By the sample's name and its labels as they are written.
    pub(crate) samples: BTreeMap<(String, String), f64>,
}

/// Families by name.
#[derive(Debug)]
pub(crate) struct Exposition(pub(crate) BTreeMap<String, Family>);

impl Exposition {
    pub(crate) fn read(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("it ends with EOF");
        let mut families = BTreeMap::<String, Family>::new();
        let mut current = String::new();
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let [keyword, name, rest] = comment.splitn(3, ' ').collect::<Vec<_>>()[..] else {
                    panic!("{line}");
                };
                if name != current {
                    assert!(!families.contains_key(name), "{name} comes twice");
                    name.clone_into(&mut current);
                }
                let family = families.entry(name.to_owned()).or_default();
                assert!(family.samples.is_empty(), "a comment after the samples: {line}");
                let field = match keyword {
                    "HELP" => &mut family.help,
                    "TYPE" => &mut family.kind,
                    "UNIT" => &mut family.unit,
                    _ => panic!("{line}"),
                };
                assert!(field.is_empty(), "twice: {line}");
                rest.clone_into(field);
            } else {
                let (name, labels, value) = sample(line);
                let family = families.get_mut(&current).expect("a sample belongs to a family");
                let suffix = name.strip_prefix(&current).unwrap_or_else(|| panic!("{line} in {current}"));
                let suffixes: &[&str] = match family.kind.as_str() {
                    "counter" => &["_total"],
                    "gauge" => &[""],
                    "info" => &["_info"],
                    "histogram" => &["_bucket", "_sum", "_count"],
                    other => panic!("{other}: {line}"),
                };
                assert!(suffixes.contains(&suffix), "{line}");
                let before = family.samples.insert((name, labels), value);
                assert!(before.is_none(), "twice: {line}");
            }
        }
        let exposition = Self(families);
        exposition.check();
        exposition
    }

    fn check(&self) {
        for (name, family) in &self.0 {
            assert!(is_name(name), "{name}");
            assert!(!family.kind.is_empty() && !family.help.is_empty(), "{name}");
            assert!(family.unit.is_empty() || name.ends_with(&format!("_{}", family.unit)), "{name}");
            if family.kind == "counter" {
                assert!(family.samples.values().all(|value| *value >= 0.0), "{name}");
            }
            if family.kind == "histogram" {
                family.check_histogram(name);
            }
        }
    }

    /// The value of a sample; labels as they are written, e.g. `cause="Expired"`.
    pub(crate) fn value(&self, name: &str, labels: &str) -> Option<f64> {
        let key = (name.to_owned(), labels.to_owned());
        self.0.values().find_map(|family| family.samples.get(&key)).copied()
    }

    /// The names under which Prometheus keeps them.
    pub(crate) fn names(&self) -> Vec<String> {
        let name = |(name, family): (&String, &Family)| match family.kind.as_str() {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.clone(),
        };
        self.0.iter().map(name).collect()
    }
}

impl Family {
    /// Of a histogram without labels.
    fn check_histogram(&self, name: &str) {
        let of = |suffix: &str, labels: &str| self.samples[&(format!("{name}{suffix}"), labels.to_owned())];
        let bound = |labels: &str| -> f64 {
            let bound = labels.strip_prefix("le=\"").and_then(|rest| rest.strip_suffix('"')).unwrap();
            if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() }
        };
        let buckets = self.samples.iter().filter(|((name, _), _)| name.ends_with("_bucket"));
        let mut buckets: Vec<_> = buckets.map(|((_, labels), value)| (bound(labels), *value)).collect();
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{name}: {buckets:?}");
        let last = buckets.last().unwrap();
        assert!(last.0.is_infinite() && (last.1 - of("_count", "")).abs() < 0.5, "{name}: {buckets:?}");
        assert!(of("_sum", "") >= 0.0);
    }
}

/// Name, labels without their braces, value.
fn sample(line: &str) -> (String, String, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"))),
        None => (series, ""),
    };
    assert!(is_name(name), "{line}");
    for label in labels.split("\",").filter(|label| !label.is_empty()) {
        let (name, value) = label.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
        assert!(is_name(name) && !value.trim_end_matches('"').contains(['"', '\\', '\n']), "{line}");
    }
    (name.to_owned(), labels.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
}

fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}
