//! Planted faults: what an operator or a test asks to go wrong, to see that it is found.
//!
//! Owns the environment variable `BERT_TRAIN_FAULT` and what each kind does. Without the variable nothing here acts; the
//! questions are asked once per step, per bucket or per exchange, never per value.

use std::{io, path::PathBuf, str::FromStr, time::Duration};

use bert_coordinator::BucketPlan;
use bert_data::DataError;
use bert_model::{BucketLayout, ParameterLayout};

use crate::{error::TrainError, task::TaskModel};

/// The variable that plants a fault, such as `rank=1,step=5,kind=panic`.
pub const VARIABLE: &str = "BERT_TRAIN_FAULT";

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The rank panics at the beginning of the step.
    Panic,
    /// One value of the rank's gradient becomes NaN: the first of `tensor`.
    Nan,
    /// The rank does not exchange its control word and goes on.
    SkipCollective,
    /// The rank cannot read the batch of the next step.
    IoError,
    /// The rank's first bucket is one element longer than that of the others.
    OtherLength,
    /// The rank says that it is another version of the program (before the first step; `step` is not used).
    OtherVersion,
    /// One bit of the rank's parameters is flipped after the step: in the first value of `tensor`.
    OtherParameters,
    /// The rank sleeps `seconds` in every step from `step` on.
    Slow,
}

const KINDS: [(&str, FaultKind); 8] = [
    ("panic", FaultKind::Panic),
    ("nan", FaultKind::Nan),
    ("skip-collective", FaultKind::SkipCollective),
    ("io-error", FaultKind::IoError),
    ("other-length", FaultKind::OtherLength),
    ("other-version", FaultKind::OtherVersion),
    ("other-parameters", FaultKind::OtherParameters),
    ("slow", FaultKind::Slow),
];

/// A fault on one rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Where.
    pub rank: usize,
    /// In which step, from 1.
    pub step: u64,
    /// What.
    pub kind: FaultKind,
    /// Name of the parameter that is hit, where one is.
    pub tensor: Option<String>,
    /// Length of the sleep.
    pub seconds: f64,
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut fault =
            Self { rank: usize::MAX, step: 1, kind: FaultKind::Panic, tensor: None, seconds: 0.05 };
        let mut has_kind = false;
        for part in text.split(',') {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("`{part}` is not key=value"))?;
            let number = |what: &str| format!("{key} must be {what}, got `{value}`");
            match key.trim() {
                "rank" => fault.rank = value.parse().map_err(|_| number("a rank"))?,
                "step" => {
                    let step = value.parse().ok().filter(|step| *step > 0);
                    fault.step = step.ok_or_else(|| number("a step from 1"))?;
                }
                "kind" => {
                    let known = KINDS.iter().find(|(name, _)| *name == value);
                    let names = KINDS.map(|(name, _)| name).join(", ");
                    fault.kind = known.ok_or_else(|| number(&format!("one of {names}")))?.1;
                    has_kind = true;
                }
                "tensor" => fault.tensor = Some(value.to_string()),
                "seconds" => {
                    let seconds = value.parse().ok().filter(|s: &f64| (0.0..=3600.0).contains(s));
                    fault.seconds = seconds.ok_or_else(|| number("seconds up to 3600"))?;
                }
                _ => return Err(format!("unknown key `{key}`; known: rank, step, kind, tensor, seconds")),
            }
        }
        if fault.rank == usize::MAX || !has_kind {
            return Err("rank and kind must be given".to_string());
        }
        let hits_tensor = matches!(fault.kind, FaultKind::Nan | FaultKind::OtherParameters);
        if hits_tensor != fault.tensor.is_some() {
            return Err(
                "tensor must be given for the kinds nan and other-parameters, and for no other".to_string()
            );
        }
        Ok(fault)
    }
}

/// The fault that this rank has to act out, if any.
#[derive(Clone, Debug, Default)]
pub struct Faults(Option<Fault>);

impl Faults {
    /// Reads the value of [`VARIABLE`] for a rank, and says loudly what it means.
    ///
    /// # Errors
    ///
    /// [`TrainError::Usage`] if it cannot be understood.
    pub fn of_rank(text: Option<&str>, rank: usize) -> Result<Self, TrainError> {
        let Some(text) = text else { return Ok(Self::default()) };
        let fault = text.parse::<Fault>().map_err(|problem| {
            let example = "rank=1,step=5,kind=panic";
            TrainError::Usage(format!(
                "{VARIABLE}=`{text}`: {problem}; expected such as `{example}`, or unset it"
            ))
        })?;
        tracing::warn!("{VARIABLE}={text} is set: this run is made to fail, and is worth nothing else");
        Ok(Self(Some(fault).filter(|fault| fault.rank == rank)))
    }

    /// The fault, if it is of this kind.
    fn kind(&self, kind: FaultKind) -> Option<&Fault> {
        self.0.as_ref().filter(|fault| fault.kind == kind)
    }

    /// The fault, if it is of this kind and due in this step.
    fn due(&self, kind: FaultKind, step: u64) -> Option<&Fault> {
        self.kind(kind).filter(|fault| fault.step == step)
    }

    /// Whether the model has what is to be hit.
    ///
    /// # Errors
    ///
    /// [`TrainError::Usage`] if it has no parameter of that name.
    pub fn check_tensor(&self, layout: &ParameterLayout) -> Result<(), TrainError> {
        let Some((fault, name)) = self.0.as_ref().and_then(|fault| Some((fault, fault.tensor.as_ref()?)))
        else {
            return Ok(());
        };
        if layout.buckets.iter().any(|bucket| offset_in(bucket, fault).is_some()) {
            return Ok(());
        }
        let example = layout.buckets.iter().flat_map(|bucket| &bucket.parameters).next();
        let example = example.map_or("", |parameter| parameter.name.as_str());
        Err(TrainError::Usage(format!("{VARIABLE}: no parameter is called `{name}`; one is `{example}`")))
    }

    /// The version that this program claims to be.
    #[must_use]
    pub fn version(&self) -> &'static str {
        match self.kind(FaultKind::OtherVersion) {
            Some(_) => "another version (planted)",
            None => env!("CARGO_PKG_VERSION"),
        }
    }

    /// At the beginning of a step: sleeps.
    ///
    /// # Panics
    ///
    /// If that is the fault.
    #[allow(clippy::disallowed_methods, reason = "to be slow is the fault that was asked for")]
    pub fn begin_step(&self, step: u64) {
        assert!(self.due(FaultKind::Panic, step).is_none(), "planted by {VARIABLE} in step {step}");
        if let Some(fault) = self.kind(FaultKind::Slow).filter(|fault| step >= fault.step) {
            std::thread::sleep(Duration::from_secs_f64(fault.seconds));
        }
    }

    /// The plans that this rank believes in: with one element more in the first bucket, or `None` for the right ones.
    #[must_use]
    pub fn other_plans(&self, step: u64, plans: &[BucketPlan]) -> Option<Vec<BucketPlan>> {
        self.due(FaultKind::OtherLength, step)?;
        let mut plans = plans.to_vec();
        if let Some(first) = plans.first_mut() {
            *first = BucketPlan::from_tensor_lens(&[first.num_elements(), 1]);
        }
        Some(plans)
    }

    /// The sum that goes to the other ranks, as long as [`other_plans`](Self::other_plans) says.
    pub fn stretch(&self, step: u64, bucket_idx: usize, sum: &mut Vec<f32>) {
        if bucket_idx == 0 && self.due(FaultKind::OtherLength, step).is_some() {
            sum.push(0.0);
        }
    }

    /// Spoils a slot's gradient of a bucket, where that is the fault.
    pub fn spoil(&self, step: u64, bucket: &BucketLayout, gradient: &mut [f32]) {
        if let Some(offset) = self.due(FaultKind::Nan, step).and_then(|fault| offset_in(bucket, fault)) {
            gradient[offset] = f32::NAN;
        }
    }

    /// Whether this rank leaves out the exchange of control words.
    #[must_use]
    pub fn skips_exchange(&self, step: u64) -> bool {
        self.due(FaultKind::SkipCollective, step).is_some()
    }

    /// # Errors
    ///
    /// What reading the batch of the next step ends with, where that is the fault.
    pub fn read_next(&self, step: u64) -> Result<(), DataError> {
        match self.due(FaultKind::IoError, step) {
            None => Ok(()),
            Some(_) => Err(DataError::Io {
                action: "read the next batch from",
                path: PathBuf::from(VARIABLE),
                source: io::Error::other("planted input/output error"),
            }),
        }
    }

    /// Flips the lowest bit of a parameter after a step.
    pub fn spoil_parameters<M: TaskModel>(&self, step: u64, model: &mut M) {
        let Some(fault) = self.due(FaultKind::OtherParameters, step) else { return };
        let mut buckets = model.layout().buckets.iter().enumerate();
        let place = |(idx, bucket): (usize, &BucketLayout)| {
            Some((idx, bucket.num_elements, offset_in(bucket, fault)?))
        };
        if let Some((idx, num_elements, offset)) = buckets.find_map(place) {
            let mut values = vec![0.0; num_elements];
            model.read_bucket(idx, &mut values);
            values[offset] = f32::from_bits(values[offset].to_bits() ^ 1);
            model.replace_bucket(idx, values);
        }
    }
}

/// Where in a bucket the fault hits, if it does.
fn offset_in(bucket: &BucketLayout, fault: &Fault) -> Option<usize> {
    let is_hit = |name: &str| fault.tensor.as_deref() == Some(name);
    bucket.parameters.iter().find(|parameter| is_hit(&parameter.name)).map(|parameter| parameter.offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read() {
        let fault: Fault = "rank=2,step=7,kind=nan,seconds=0.5,tensor=a.b".parse().unwrap();
        let expected =
            Fault { rank: 2, step: 7, kind: FaultKind::Nan, tensor: Some("a.b".to_string()), seconds: 0.5 };
        assert_eq!(fault, expected);
        for (name, kind) in KINDS {
            let tensor = if name == "nan" || name == "other-parameters" { ",tensor=a" } else { "" };
            assert_eq!(format!("rank=0,kind={name}{tensor}").parse::<Fault>().unwrap().kind, kind);
        }
    }

    #[track_caller]
    fn check_refused(text: &str, part: &str) {
        let error = Faults::of_rank(Some(text), 0).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let message = error.to_string();
        assert!(message.contains(part) && message.contains(VARIABLE), "{message}");
    }

    #[test]
    fn bad_text_is_refused_with_what_was_expected() {
        check_refused("", "is not key=value");
        check_refused("rank=1", "rank and kind must be given");
        check_refused("kind=panic", "rank and kind must be given");
        check_refused("rank=-1,kind=panic", "rank must be a rank, got `-1`");
        check_refused("rank=1,kind=panik", "one of panic, nan,");
        check_refused("rank=1,kind=panic,step=0", "a step from 1");
        check_refused("rank=1,kind=slow,seconds=-2", "seconds up to 3600");
        check_refused("rank=1,kind=nan", "tensor must be given");
        check_refused("rank=1,kind=panic,tensor=a", "for no other");
        check_refused("rank=1,kind=panic,when=now", "unknown key `when`");
    }

    #[test]
    fn only_the_named_rank_and_step_are_hit() {
        let text = Some("rank=1,step=3,kind=skip-collective");
        let own = Faults::of_rank(text, 1).unwrap();
        assert!(own.skips_exchange(3) && !own.skips_exchange(2) && !own.skips_exchange(4));
        assert!(!Faults::of_rank(text, 0).unwrap().skips_exchange(3));
        assert!(!Faults::of_rank(None, 1).unwrap().skips_exchange(3));
        assert!(own.read_next(3).is_ok() && own.version() == env!("CARGO_PKG_VERSION"));
    }
}
