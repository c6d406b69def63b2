//! Weighted sources: how often each document comes in an epoch.
//!
//! A source is an endless sequence of documents: pass after pass over all of them, every pass in an order of its own.
//! Of a source with `n` documents and weight `w`, epoch `e` takes the places from `floor(e w n)` to
//! `floor((e + 1) w n)` of its sequence. So the stretches of the epochs neither overlap nor leave a gap, and after any
//! number of epochs each document has come `w` times per epoch, give or take less than one.
//!
//! Weights are whole millionths and places whole numbers: nothing is rounded twice. No list is kept; how often a
//! document comes is computed by the inverse of a permutation or two. Held-out documents have places too, which are
//! passed over.

use crate::corpus::Corpus;
use crate::error::DataError;
use bert_random::{Key, Permutation, Purpose, Stream};
use std::ops::Range;

/// The largest weight of a source: every reading of a document is planned where a sample of it is looked up.
pub const MAX_SOURCE_WEIGHT: f64 = 100.0;
/// A weight of 1.
const MILLION: u64 = 1_000_000;

/// The sources of a corpus with their weights.
pub(crate) struct Sources {
    /// First document of each source, and at the end the number of documents.
    borders: Vec<u64>,
    /// In millionths; none if every document comes once in every epoch.
    weights: Vec<u64>,
    /// Documents per epoch of each source.
    shares: Vec<f64>,
    /// Keys the passes.
    key: Key,
}

/// How often documents come in one epoch.
#[derive(Debug)]
pub(crate) struct Repeats {
    /// By source; none if every document comes once.
    windows: Vec<Window>,
}

/// The stretch that an epoch takes of one source.
#[derive(Debug)]
pub(crate) struct Window {
    documents: Range<u64>,
    /// Passes that are in it as a whole.
    num_whole: u64,
    /// Passes that are in it in part: the first and the last one.
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    order: Permutation,
    places: Range<u64>,
}

impl Sources {
    /// The sources of `corpus`, each with its weight; no weights at all are weights of 1.
    pub(crate) fn new(corpus: &Corpus, weights: &[f64], seed: u64) -> Result<Self, DataError> {
        let borders = corpus.source_borders();
        let num_sources = borders.len() - 1;
        if !weights.is_empty() && weights.len() != num_sources {
            let expected = format!("a weight for each source of the shards, {num_sources}");
            return Err(DataError::config("source_weights", &expected, weights.len()));
        }
        let mut millionths: Vec<u64> =
            weights.iter().map(|&weight| in_millionths(weight)).collect::<Result<_, _>>()?;
        for (source_idx, &weight) in millionths.iter().enumerate() {
            if weight != MILLION && borders[source_idx] == borders[source_idx + 1] {
                let expected = format!("1 for source {}, which has no document", source_idx + 1);
                return Err(DataError::config("source_weights", &expected, weights[source_idx]));
            }
        }
        let share = |(weight, border): (&u64, &[u64])| *weight as f64 * (border[1] - border[0]) as f64;
        let shares = millionths.iter().zip(borders.windows(2)).map(share).collect();
        if millionths.iter().all(|&weight| weight == MILLION) {
            millionths.clear();
        }
        let key = Key::new(seed, Purpose::SamplePlan).with_name("passes of a source");
        Ok(Self { borders, weights: millionths, shares, key })
    }

    /// Whether every document comes once in every epoch.
    pub(crate) fn are_equal(&self) -> bool {
        self.weights.is_empty()
    }

    /// The documents and the weight of each source.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Range<u64>, f64)> {
        let weight =
            |source_idx| self.weights.get(source_idx).map_or(1.0, |&weight| weight as f64 / MILLION as f64);
        self.borders.windows(2).enumerate().map(move |(idx, border)| (border[0]..border[1], weight(idx)))
    }

    /// How often documents come in an epoch.
    pub(crate) fn repeats(&self, epoch: u64) -> Repeats {
        let window = |(source_idx, (&weight, borders)): (usize, (&u64, &[u64]))| {
            Window::new(borders[0]..borders[1], weight, epoch, self.key.with(source_idx as u64))
        };
        Repeats {
            windows: self.weights.iter().zip(self.borders.windows(2)).enumerate().map(window).collect(),
        }
    }

    /// A document, each as likely as it is often in an epoch.
    pub(crate) fn draw(&self, stream: &mut Stream) -> u64 {
        let source_idx = if self.weights.len() > 1 { stream.weighted(&self.shares) } else { 0 };
        let (start, end) = (self.borders[source_idx], self.borders[source_idx + 1]);
        start + stream.below(end - start)
    }
}

/// A weight in millionths.
fn in_millionths(weight: f64) -> Result<u64, DataError> {
    let millionths = (weight * MILLION as f64).round();
    if weight <= MAX_SOURCE_WEIGHT && millionths >= 1.0 {
        return Ok(millionths as u64);
    }
    let expected = format!("above 0 (at least 0.000001), at most {MAX_SOURCE_WEIGHT}");
    Err(DataError::config("source_weights", &expected, weight))
}

impl Repeats {
    /// Every document once.
    pub(crate) fn once() -> Self {
        Self { windows: Vec::new() }
    }

    /// The stretch of the source that a document belongs to; `None` if every document comes once.
    pub(crate) fn window(&self, document: u64) -> Option<&Window> {
        let idx = self.windows.partition_point(|window| window.documents.end <= document);
        self.windows.get(idx)
    }

    /// Names what the counts of a plan depend on, besides the seed and the corpus; empty if every document comes once.
    pub(crate) fn describe(&self) -> String {
        let describe = |window: &Window| {
            let parts: Vec<&Range<u64>> = window.parts.iter().map(|part| &part.places).collect();
            format!(" {:?} {} {parts:?}", window.documents, window.num_whole)
        };
        self.windows.iter().map(describe).collect()
    }
}

impl Window {
    fn new(documents: Range<u64>, weight: u64, epoch: u64, key: Key) -> Self {
        let num_documents = u128::from(documents.end - documents.start);
        if num_documents == 0 {
            return Self { documents, num_whole: 0, parts: Vec::new() };
        }
        let place = |epoch: u64| u128::from(epoch) * u128::from(weight) * num_documents / u128::from(MILLION);
        let pass = |place: u128| ((place / num_documents) as u64, (place % num_documents) as u64);
        let ((first, start), (last, end)) = (pass(place(epoch)), pass(place(epoch + 1)));
        let num_documents = num_documents as u64;
        let mut parts = Vec::new();
        let mut add = |pass: u64, places: Range<u64>| {
            if !places.is_empty() {
                parts.push(Part { order: Permutation::new(num_documents, key.with(pass)), places });
            }
        };
        let num_whole = if first == last {
            add(first, start..end);
            0
        } else {
            if start > 0 {
                add(first, start..num_documents);
            }
            add(last, 0..end);
            last - first - u64::from(start > 0)
        };
        Self { documents, num_whole, parts }
    }

    /// How often a document of this source comes in the epoch.
    pub(crate) fn num_copies(&self, document: u64) -> u64 {
        let idx = document - self.documents.start;
        let is_in = |part: &&Part| part.places.contains(&part.order.inverse(idx));
        self.num_whole + self.parts.iter().filter(is_in).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sources(sizes: &[u64], weights: &[u64]) -> Sources {
        let mut borders = vec![0];
        sizes.iter().for_each(|size| borders.push(borders[borders.len() - 1] + size));
        let shares = weights.iter().zip(sizes).map(|(&weight, &size)| (weight * size) as f64).collect();
        Sources { borders, weights: weights.to_vec(), shares, key: Key::new(3, Purpose::SamplePlan) }
    }

    fn num_copies(repeats: &Repeats, document: u64) -> u64 {
        repeats.window(document).unwrap().num_copies(document)
    }

    proptest! {
        #[test]
        fn documents_come_as_often_as_their_weight_says(
            sizes in prop::collection::vec(1u64..60, 1..4),
            weights in prop::collection::vec(1u64..4_500_000, 4),
            num_epochs in 1u64..40,
        ) {
            let sources = sources(&sizes, &weights[..sizes.len()]);
            let num_documents: u64 = sizes.iter().sum();
            let mut counts = vec![0; num_documents as usize];
            for epoch in 0..num_epochs {
                let repeats = sources.repeats(epoch);
                (0..num_documents).for_each(|d| counts[d as usize] += num_copies(&repeats, d));
                for ((documents, weight), size) in sources.iter().zip(&sizes) {
                    let epochs = (epoch + 1) as f64;
                    let own = &counts[documents.start as usize..documents.end as usize];
                    let sum = own.iter().sum::<u64>() as f64;
                    // The stretches so far are the first places of the sequence: whole passes, and a part of one.
                    prop_assert!((sum - weight * epochs * *size as f64).abs() < 1.0 + 1e-6);
                    prop_assert!(own.iter().max().unwrap() - own.iter().min().unwrap() <= 1);
                    prop_assert!(own.iter().all(|&count| (count as f64 - weight * epochs).abs() < 1.0 + 1e-9));
                }
            }
        }
    }

    #[test]
    fn whole_weights_need_no_order_and_halves_take_turns() {
        let sources = sources(&[5, 8], &[2 * MILLION, MILLION / 2]);
        for epoch in 0..6 {
            let repeats = sources.repeats(epoch);
            assert!(repeats.windows[0].parts.is_empty());
            assert!((0..5).all(|document| num_copies(&repeats, document) == 2));
            let next = sources.repeats(epoch + 1);
            let of =
                |repeats: &Repeats| Vec::from_iter((5..13).map(|document| num_copies(repeats, document)));
            assert_eq!(of(&repeats).iter().sum::<u64>(), 4);
            if epoch % 2 == 0 {
                assert!(of(&repeats).iter().zip(of(&next)).all(|(a, b)| a + b == 1), "{epoch}");
            }
        }
    }

    #[test]
    fn weights_are_whole_millionths_within_bounds() {
        assert_eq!(in_millionths(0.1).unwrap() + in_millionths(0.2).unwrap(), in_millionths(0.3).unwrap());
        assert_eq!(in_millionths(MAX_SOURCE_WEIGHT).unwrap(), 100 * MILLION);
        for weight in [0.0, -1.0, 1e-7, 100.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let error = in_millionths(weight).unwrap_err();
            assert!(matches!(error, DataError::Config { setting: "source_weights", .. }), "{error}");
        }
    }

    #[test]
    fn drawn_documents_follow_the_weights() {
        let sources = sources(&[10, 30], &[3 * MILLION, MILLION / 2]);
        let mut stream = Key::new(1, Purpose::Pair).stream();
        let num_first = (0..90_000).filter(|_| sources.draw(&mut stream) < 10).count() as f64;
        // 30 of 45 readings; six standard deviations.
        assert!((num_first - 60_000.0).abs() < 6.0 * 142.0, "{num_first}");
    }
}
