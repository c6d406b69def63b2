//! Seeking in a corpus of ten million samples: minutes of work, so only where `BERT_TRAIN_SLOW_TESTS` is set.

use super::*;
use crate::shards::{Verify, synthetic};
use crate::testing::{config, tokenizer};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Documents of 1 to 80 sentences of 5 to 35 tokens; about eight samples of 128 tokens each.
fn documents(shard: u64, num_documents: u64) -> Vec<Vec<u32>> {
    let mut stream = Key::new(shard, Purpose::Debug).stream();
    (0..num_documents)
        .map(|_| (0..1 + stream.below(80)).map(|_| 5 + stream.below(31) as u32).collect())
        .collect()
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Seconds that this thread has had a core.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[test]
fn seeking_in_ten_million_samples() {
    if std::env::var_os("BERT_TRAIN_SLOW_TESTS").is_none() {
        println!("skipped: seeking in ten million samples; set BERT_TRAIN_SLOW_TESTS to run it");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    synthetic::write(dir.path(), &tokenizer(), (0..24).map(|shard| documents(shard, 48_000)));
    let corpus = Arc::new(Corpus::open(dir.path(), Verify::Sizes).unwrap());
    let config = PretrainDataConfig { max_seq_length: 128, ..config(SentenceObjective::Nsp) };
    let open = || PretrainData::new(corpus.clone(), config.clone()).unwrap();
    let before = resident_bytes();
    let start = Instant::now();
    let data = open();
    let opened = start.elapsed();
    let num_samples = data.num_samples(0).unwrap();
    let (start, cpu) = (Instant::now(), cpu_seconds());
    data.plan_ahead(1, &AtomicBool::new(false)).unwrap();
    let (counted, cpu) = (start.elapsed(), cpu_seconds() - cpu);
    println!("{num_samples} samples of {} sentences", corpus.manifest().counts.num_sentences);
    println!("opened in {opened:?}, epoch 1 counted in {counted:?}, {cpu:.3} s on one core");
    assert!(num_samples > 9_000_000);
    let mut stream = Key::new(1, Purpose::Debug).stream();
    let positions: Vec<u64> = (0..20).map(|_| stream.below(2 * num_samples)).collect();
    let expected: Vec<SamplePosition> = positions.iter().map(|&p| data.locate(p).unwrap()).collect();
    let memory = resident_bytes().saturating_sub(before);
    println!("{:.1} MB for plans and order", memory as f64 / 1e6);
    assert!(memory < 64 << 20);
    drop(data);
    for (position, expected) in positions.into_iter().zip(expected) {
        let start = Instant::now();
        let data = open();
        let opened = start.elapsed();
        assert_eq!(data.locate(position).unwrap(), expected);
        println!("position {position}: {:?}, {opened:?} of it to open", start.elapsed());
    }
}
