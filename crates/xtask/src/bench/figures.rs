//! Measurements and what is said about several of them: medians, ratios, spread.
//!
//! Pure arithmetic; starts nothing.

use anyhow::Context;
use serde_json::Value;

/// One measurement.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What was counted.
    pub unit: String,
    /// How many in a second of wall time.
    pub per_second: f64,
    /// How many in a second of processor time: what remains of it on a machine that others use too.
    pub per_processor_second: f64,
}

impl Measured {
    /// Reads the line a measured program prints.
    ///
    /// # Errors
    ///
    /// If a field is missing.
    pub fn parse(line: &str) -> anyhow::Result<Self> {
        let value: Value =
            serde_json::from_str(line).with_context(|| format!("not a measurement: `{line}`"))?;
        let number = |name: &str| {
            value[name].as_f64().with_context(|| format!("expected a number `{name}` in `{line}`"))
        };
        let unit = value["unit"].as_str().with_context(|| format!("expected `unit` in `{line}`"))?.to_owned();
        let (count, processor_seconds) = (number("number")?, number("cpu_seconds")?.max(0.01));
        Ok(Self {
            unit,
            per_second: count / number("seconds")?,
            per_processor_second: count / processor_seconds,
        })
    }
}

/// Two sides that were measured in turns; the peer may be absent.
#[derive(Debug)]
pub struct Comparison {
    pub name: String,
    /// Name of the other side.
    pub peer_name: Option<String>,
    pub ours: Vec<Measured>,
    /// As many as `ours`, or none.
    pub peer: Vec<Measured>,
}

/// The middle of some numbers and their ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// `None` if there are no numbers.
    pub fn of(numbers: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = numbers.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Self { median, min, max })
    }

    /// Median with the ends in brackets.
    pub fn text(self, scale: f64, digits: usize) -> String {
        let [median, min, max] = [self.median, self.min, self.max].map(|value| value * scale);
        format!("{median:.digits$} ({min:.digits$}-{max:.digits$})")
    }
}

/// Median with the ends in brackets; `-` for nothing.
pub fn text(spread: Option<Spread>, scale: f64, digits: usize) -> String {
    spread.map_or_else(|| "-".to_owned(), |spread| spread.text(scale, digits))
}

impl Comparison {
    pub fn new(name: String, peer_name: Option<&str>) -> Self {
        Self { name, peer_name: peer_name.map(str::to_owned), ours: Vec::new(), peer: Vec::new() }
    }

    /// Ours over the peer's, pair by pair.
    pub fn ratio(&self, rate: impl Fn(&Measured) -> f64) -> Option<Spread> {
        Spread::of(self.ours.iter().zip(&self.peer).map(|(ours, peer)| rate(ours) / rate(peer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(per_second: f64) -> Measured {
        Measured { unit: "tokens".to_owned(), per_second, per_processor_second: 2.0 * per_second }
    }

    #[test]
    fn spreads_have_the_middle_and_the_ends() {
        assert_eq!(Spread::of([3.0, 1.0, 8.0]), Some(Spread { median: 3.0, min: 1.0, max: 8.0 }));
        assert_eq!(Spread::of([3.0, 1.0, 8.0, 4.0]), Some(Spread { median: 3.5, min: 1.0, max: 8.0 }));
        assert_eq!(Spread::of([]), None);
        assert_eq!(text(Spread::of([0.01, 0.03, 0.02]), 100.0, 1), "2.0 (1.0-3.0)");
        assert_eq!(text(None, 100.0, 1), "-");
    }

    #[test]
    fn ratios_are_those_of_the_pairs() {
        let mut comparison = Comparison::new("x".to_owned(), Some("y"));
        comparison.ours = vec![measured(10.0), measured(40.0), measured(30.0)];
        assert_eq!(comparison.ratio(|m| m.per_second), None);
        comparison.peer = vec![measured(5.0), measured(4.0), measured(10.0)];
        let expected = Spread { median: 3.0, min: 2.0, max: 10.0 };
        assert_eq!(comparison.ratio(|m| m.per_second), Some(expected));
    }

    #[test]
    fn a_line_without_a_field_is_refused() {
        let line = r#"{"unit": "bytes", "number": 10, "seconds": 2.0, "cpu_seconds": 0.5}"#;
        let good = Measured::parse(line).unwrap();
        assert_eq!((good.per_second, good.per_processor_second), (5.0, 20.0));
        for field in ["unit", "number", "\"seconds", "cpu_seconds"] {
            let error = Measured::parse(&line.replace(field, "\"other")).unwrap_err();
            assert!(!error.to_string().is_empty());
        }
    }
}
