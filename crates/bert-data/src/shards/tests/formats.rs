//! Tests of building from other formats, from damaged text, and after a kill.

use super::*;
use crate::shards::{BuildProgress, build_watched};
use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

type Documents = Vec<Vec<String>>;

fn plain(documents: &Documents) -> Vec<u8> {
    documents.iter().map(|document| document.join("\n") + "\n\n").collect::<String>().into_bytes()
}

/// Sentences joined so that only the rules can part them again.
fn json(documents: &Documents) -> Vec<u8> {
    let row =
        |document: &Vec<String>| format!("{}\n", serde_json::json!({"id": 7, "text": document.join(" ")}));
    documents.iter().map(row).collect::<String>().into_bytes()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    // Two members, as `cat a.gz b.gz` makes them.
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let pack = |bytes| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    [pack(first), pack(second)].concat()
}

fn zstandard(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

fn parquet(documents: &Documents, rows_per_group: usize) -> Vec<u8> {
    use ::parquet::data_type::{ByteArray, ByteArrayType};
    use ::parquet::file::writer::SerializedFileWriter;
    let schema = "message row { required int64 id; optional binary text (UTF8); }";
    let schema = Arc::new(::parquet::schema::parser::parse_message_type(schema).unwrap());
    let mut bytes = Vec::new();
    let mut file = SerializedFileWriter::new(&mut bytes, schema, Arc::default()).unwrap();
    for group in documents.chunks(rows_per_group) {
        let mut rows = file.next_row_group().unwrap();
        let mut ids = rows.next_column().unwrap().unwrap();
        let numbers: Vec<i64> = (0..group.len() as i64 + 1).collect();
        ids.typed::<::parquet::data_type::Int64Type>().write_batch(&numbers, None, None).unwrap();
        ids.close().unwrap();
        // Each group begins with a null.
        let texts: Vec<ByteArray> = group.iter().map(|d| d.join("\n").into_bytes().into()).collect();
        let levels: Vec<i16> = (0..=texts.len()).map(|idx| i16::from(idx > 0)).collect();
        let mut column = rows.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&texts, Some(&levels), None).unwrap();
        column.close().unwrap();
        rows.close().unwrap();
    }
    file.close().unwrap();
    bytes
}

/// Ids of every sentence of every document.
fn tokens(dir: &Path) -> Vec<Vec<Vec<u32>>> {
    let corpus = Corpus::open(dir, Verify::Hashes).unwrap();
    let read = |idx| {
        let document = corpus.document(idx).unwrap();
        let num_tokens = document.sentence_lengths.iter().map(|&l| u64::from(l)).sum();
        let (mut ids, mut starts) = (vec![], vec![]);
        corpus.read_tokens(&document, 0..num_tokens, &mut ids, &mut starts).unwrap();
        let mut ids = ids.into_iter();
        let lengths = document.sentence_lengths.iter();
        lengths.map(|&length| ids.by_ref().take(length as usize).collect()).collect()
    };
    (0..corpus.num_documents()).map(read).collect()
}

fn built(
    dir: &tempfile::TempDir,
    name: &str,
    bytes: &[u8],
    shard_text_bytes: u64,
) -> (Manifest, Vec<Vec<Vec<u32>>>) {
    let mut request = request(dir, "");
    // No segmenter to load: the tokens are the same.
    request.language = Language::En;
    request.sources = vec![dir.path().join(name)];
    request.dir = dir.path().join(format!("{name}.shards"));
    request.shard_text_bytes = shard_text_bytes;
    fs::write(&request.sources[0], bytes).unwrap();
    let manifest = prepare(&request).unwrap();
    assert!(matches!(status(&request).unwrap(), BuildStatus::Ready(_)));
    (manifest, tokens(&request.dir))
}

fn some_documents() -> Documents {
    let sentence =
        |i: usize, j: usize| format!("{} 北京大学{}。", " ad".repeat((i + j) % 4), " c".repeat(i % 5));
    (0..60).map(|i| (0..i % 4 + 1).map(|j| sentence(i, j).trim().to_owned()).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn the_same_documents_in_any_format_give_the_same_tokens(
        documents in proptest::collection::vec(
            proptest::collection::vec("[ABC北京大学]( ?[abcd北京大学]){0,6}[。！？…]", 1..5), 1..20),
        shard_text_bytes in 20u64..400,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (lines, rows) = (plain(&documents), json(&documents));
        let (manifest, expected) = built(&dir, "a.txt", &lines, shard_text_bytes);
        prop_assert_eq!(manifest.counts.num_documents, documents.len() as u64);
        for (name, bytes) in [
            ("a.txt.gz", gzip(&lines)),
            ("a.txt.zst", zstandard(&lines)),
            ("a.jsonl", rows.clone()),
            ("a.jsonl.gz", gzip(&rows)),
            ("a.jsonl.zst", zstandard(&rows)),
            ("a.parquet", parquet(&documents, 7)),
        ] {
            let (other, got) = built(&dir, name, &bytes, shard_text_bytes);
            prop_assert!(got == expected, "{}", name);
            prop_assert_eq!(other.counts.num_tokens, manifest.counts.num_tokens);
        }
    }
}

/// A packed file, a table, rows and plain text together, in small shards.
fn mixed_request(dir: &tempfile::TempDir) -> ShardBuildRequest {
    let documents = some_documents();
    let mut request = request(dir, "");
    request.shard_text_bytes = 300;
    let folder = dir.path().join("texts");
    fs::create_dir(&folder).unwrap();
    for (name, bytes) in [
        ("a.txt", plain(&documents)),
        ("b.jsonl.zst", zstandard(&json(&documents))),
        ("c.jsonl", json(&documents)),
        ("d.parquet", parquet(&documents, 25)),
        ("e.txt.gz", gzip(&plain(&documents))),
        ("f.txt.gz", gzip(b"\n\n")),
    ] {
        fs::write(folder.join(name), bytes).unwrap();
    }
    request.sources = vec![folder];
    request
}

#[test]
fn any_number_of_shares_builds_the_same_files_from_all_formats() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = mixed_request(&dir);
    let mut expected: Option<Vec<_>> = None;
    for count in [1, 2, 5] {
        request.dir = dir.path().join(format!("shards-{count}"));
        for index in 0..count {
            build(&request, BuildShare { index, count }).unwrap();
        }
        let manifest = finish(&request, count).unwrap();
        assert_eq!(manifest.counts.num_documents, 5 * 60);
        assert!(manifest.shards.iter().any(|shard| shard.name.ends_with("-00003")));
        assert_eq!(verify(&request.dir).unwrap(), manifest);
        let got = content(&request.dir);
        match &expected {
            None => expected = Some(got),
            Some(expected) => assert!(expected == &got, "{count} shares"),
        }
    }
    let whole = tokens(&request.dir);
    assert!(whole.chunks(60).all(|part| part == &whole[..60]));
}

#[test]
fn a_killed_build_goes_on_after_its_last_finished_shard() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = mixed_request(&dir);
    request.dir = dir.path().join("straight");
    let expected = prepare(&request).unwrap();
    let expected_files = content(&request.dir);
    request.dir = dir.path().join("killed");
    let mut kept = Vec::new();
    for num_reports in [3, 9, 20, 40] {
        let mut left = num_reports;
        let mut die = |_: &BuildProgress| {
            left -= 1;
            assert!(left > 0, "killed");
        };
        let result = catch_unwind(AssertUnwindSafe(|| build_watched(&request, BuildShare::WHOLE, &mut die)));
        assert!(result.is_err(), "{num_reports} reports");
        kept.push(fs::metadata(dir.path().join("killed.building/shard-00000.done")).is_ok());
    }
    assert!(kept.iter().all(|is_kept| *is_kept));
    // One finished shard loses its record's promise, one its record.
    let building = dir.path().join("killed.building");
    fs::write(building.join("shard-00001.bin"), "torn").unwrap();
    fs::remove_file(building.join("shard-00000.done")).unwrap();
    let mut first = None;
    let report = build_watched(&request, BuildShare::WHOLE, &mut |p| {
        first.get_or_insert(*p);
        assert!(p.num_bytes_done <= p.num_bytes && p.num_bytes_reused <= p.num_bytes_done);
    });
    let report = report.unwrap();
    assert!(report.num_reused_shards > 10 && report.num_reused_shards < report.num_shards - 1, "{report:?}");
    assert_eq!(finish(&request, 1).unwrap(), expected);
    assert!(content(&request.dir) == expected_files);
    assert!(!building.exists());
}

#[test]
fn finished_shards_of_another_plan_or_text_are_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = request(&dir, &many_documents());
    request.shard_text_bytes = 200;
    let first = build(&request, BuildShare::WHOLE).unwrap();
    let again = build(&request, BuildShare::WHOLE).unwrap();
    assert_eq!((first.num_reused_shards, again.num_reused_shards), (0, first.num_shards));
    // The same size, another letter in the first block.
    fs::write(&request.sources[0], many_documents().replacen('a', "b", 1)).unwrap();
    let changed = build(&request, BuildShare::WHOLE).unwrap();
    assert_eq!(changed.num_reused_shards, first.num_shards - 1);
    request.language = Language::En;
    assert_eq!(build(&request, BuildShare::WHOLE).unwrap().num_reused_shards, 0);
}

#[test]
fn invalid_bytes_are_counted_with_the_first_place_unless_strict() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = request(&dir, "");
    request.shard_text_bytes = 8;
    let second = dir.path().join("b.jsonl.gz");
    fs::write(&request.sources[0], b"a b c a\n\na\xff\xfe b\nc\n\nb \xe5\n").unwrap();
    fs::write(&second, gzip(b"{\"text\": \"a b\"}\n{\"text\": \"a \xff\"}\n{\"text\": \"\\ud83d c\"}\n"))
        .unwrap();
    request.sources.push(second.clone());
    let error = prepare(&request).unwrap_err();
    assert!(matches!(&error, DataError::InvalidUtf8 { byte: 10, .. }), "{error}");
    request.strict = false;
    let manifest = prepare(&request).unwrap();
    assert_eq!((manifest.counts.num_invalid_lines, manifest.counts.num_documents), (4, 6));
    assert_eq!(manifest.first_invalid(), Some((request.sources[0].display().to_string().as_str(), 10)));
    let in_second = manifest.shards.iter().filter_map(|s| s.first_invalid).find(|b| b.file_idx == 1).unwrap();
    assert_eq!(in_second.byte, 16 + 12);
    assert_eq!(Manifest::read(&request.dir).unwrap(), manifest);
    // What was replaced is not what a strict request asks for.
    request.strict = true;
    let error = prepare(&request).unwrap_err();
    assert!(matches!(&error, DataError::Stale { what: "number of invalid lines", .. }), "{error}");
}

#[test]
fn files_that_are_not_what_their_name_says_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let documents = some_documents();
    let packed = gzip(&plain(&documents));
    let frame = zstandard(&plain(&documents));
    let table = parquet(&documents, 9);
    for (name, bytes, parts) in [
        ("a.txt.gz", &packed[..packed.len() - 9], vec!["whole gzip", "unpacked"]),
        ("a.txt.zst", &frame[..frame.len() - 9], vec!["whole Zstandard"]),
        ("b.txt.zst", b"plain text", vec!["whole Zstandard"]),
        ("a.jsonl", b"{\"text\": \"a\"}\n{\"body\": \"a\"}\n", vec!["byte 14", "`text`"]),
        ("b.jsonl", b"a b c\n", vec!["byte 0", "JSON object"]),
        ("a.parquet", b"PAR1", vec!["Parquet file"]),
        ("b.parquet", &table[..table.len() - 1], vec!["Parquet file"]),
    ] {
        let mut request = request(&dir, "");
        request.sources = vec![dir.path().join(name)];
        fs::write(&request.sources[0], bytes).unwrap();
        let error = prepare(&request).unwrap_err();
        assert!(matches!(error, DataError::BadText { .. }), "{name}: {error}");
        assert_eq!(error.kind(), DataErrorKind::Damaged);
        for part in parts.into_iter().chain([name]) {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
