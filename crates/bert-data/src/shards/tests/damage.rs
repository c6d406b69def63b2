//! Damaged, swapped and foreign files, and shards of something else: each is refused by name, and a rebuild mends it.

use super::*;

const FILES: [&str; 4] = ["shard-00000.bin", "shard-00000.idx", "shard-00000.words", "manifest.json"];

/// Every way to open the shards refuses them with an error of this kind that names the file.
#[track_caller]
fn assert_refused(request: &ShardBuildRequest, file: &str) {
    let opened = Corpus::open(&request.dir, Verify::Hashes).map(drop);
    for error in [opened.unwrap_err(), verify(&request.dir).unwrap_err()] {
        assert_eq!(error.kind(), DataErrorKind::Damaged, "{error:?}");
        for part in [file, "expected", "got", "build"] {
            assert!(error.to_string().contains(part), "expected `{part}` in: {error}");
        }
    }
}

#[test]
fn every_flipped_bit_of_a_manifest_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(&dir, "a b\n\nc\n");
    let manifest = prepare(&request).unwrap();
    let path = request.dir.join("manifest.json");
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 7);
        fs::write(&path, &bad).unwrap();
        // White space carries nothing, and the paths of the sources are for people.
        let error = match Manifest::read(&request.dir) {
            Ok(read) => {
                assert_eq!(Manifest { sources: manifest.sources.clone(), ..read }, manifest, "byte {at}");
                continue;
            }
            Err(error) => error,
        };
        assert_eq!(error.kind(), DataErrorKind::Damaged, "byte {at}: {error:?}");
        assert!(error.to_string().contains("shards"), "{error}");
    }
}

#[test]
fn flipped_cut_and_missing_files_are_refused_and_a_rebuild_mends_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = request(&dir, &many_documents());
    // No segmenter to load for every rebuild.
    request.language = Language::En;
    request.shard_text_bytes = 300;
    assert!(prepare(&request).unwrap().shards.len() > 3);
    let whole = content(&request.dir);
    for file in FILES {
        let path = request.dir.join(file);
        let good = fs::read(&path).unwrap();
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 4;
        for bad in [Some(flipped), Some(good[..good.len() / 2].to_vec()), Some(vec![]), None] {
            match &bad {
                Some(bad) => fs::write(&path, bad).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            if bad.is_some() || file != "manifest.json" {
                assert_refused(&request, file);
            } else {
                // A folder without a manifest is not known to be one of shards: it is left alone.
                let error = prepare(&request).unwrap_err();
                assert!(error.to_string().contains("manifest.json"), "{error}");
                fs::write(&path, &good).unwrap();
            }
            request.when_stale = WhenStale::Rebuild;
            prepare(&request).unwrap();
            request.when_stale = WhenStale::Refuse;
            assert!(content(&request.dir) == whole, "{file}");
        }
    }
}

#[test]
fn swapped_shards_and_files_of_another_corpus_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    // Shards 0 and 3 hold 11 documents of the same lengths: sizes and indices do not tell them apart.
    let text = "a b c\na b\n\n".repeat(27) + &"c b a\nb a\n\n".repeat(27);
    let mut request = request(&dir, &text);
    request.language = Language::En;
    request.shard_text_bytes = 110;
    prepare(&request).unwrap();
    let whole = content(&request.dir);
    let file = |dir: &Path, idx: usize, extension: &str| dir.join(format!("shard-{idx:05}.{extension}"));
    for extension in ["bin", "idx", "words"] {
        let (first, fourth) = (file(&request.dir, 0, extension), file(&request.dir, 3, extension));
        let bytes = [&first, &fourth].map(|path| fs::read(path).unwrap());
        assert_eq!(bytes[0].len(), bytes[1].len());
        fs::write(&first, &bytes[1]).unwrap();
        fs::write(&fourth, &bytes[0]).unwrap();
    }
    assert_refused(&request, "shard-00000.bin");
    request.when_stale = WhenStale::Rebuild;
    prepare(&request).unwrap();
    request.when_stale = WhenStale::Refuse;
    assert!(content(&request.dir) == whole);

    let other_dir = tempfile::tempdir().unwrap();
    let other = ShardBuildRequest {
        language: Language::En,
        shard_text_bytes: 110,
        ..super::request(&other_dir, &text.replace("c b a", "c c a"))
    };
    prepare(&other).unwrap();
    fs::copy(file(&other.dir, 3, "bin"), file(&request.dir, 3, "bin")).unwrap();
    assert_refused(&request, "shard-00003.bin");
    for (name, bytes) in content(&other.dir) {
        fs::write(request.dir.join(name), bytes).unwrap();
    }
    // A whole folder of another corpus is whole, and not what was asked for.
    let error = prepare(&request).unwrap_err();
    assert!(matches!(&error, DataError::Stale { what: "text", .. }), "{error}");
}

#[test]
fn shards_of_another_tokenizer_casing_lexicon_or_language_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let good = request(&dir, &many_documents());
    prepare(&good).unwrap();
    let lexicon = dir.path().join("lexicon.txt");
    fs::write(&lexicon, "北京大学\n").unwrap();
    let tokens = |extra: &str| {
        let tokens = SPECIAL_TOKENS.iter().copied().chain(["a", "b", "c", "##d", "北", "京", "大", extra]);
        tokens.map(str::to_owned).collect::<Vec<_>>()
    };
    let tokenizer =
        |tokens, lowercase| Arc::new(Tokenizer::from_tokens(tokens, lowercase, Path::new("test")).unwrap());
    let others = [
        ("tokenizer", ShardBuildRequest { tokenizer: tokenizer(tokens("习"), true), ..good.clone() }),
        ("tokenizer", ShardBuildRequest { tokenizer: tokenizer(tokens("学"), false), ..good.clone() }),
        ("language", ShardBuildRequest { language: Language::En, ..good.clone() }),
        ("lexicon", ShardBuildRequest { lexicon: Some(lexicon.clone()), ..good.clone() }),
        ("shard size", ShardBuildRequest { shard_text_bytes: 77, ..good.clone() }),
    ];
    for (expected, other) in others {
        let error = prepare(&other).unwrap_err();
        assert_eq!(error.kind(), DataErrorKind::Damaged);
        assert!(matches!(&error, DataError::Stale { what, .. } if *what == expected), "{error}");
        assert!(error.to_string().contains("bert shards build --rebuild"), "{error}");
    }
    let corpus = Corpus::open(&good.dir, Verify::Hashes).unwrap();
    corpus.check_tokenizer(&good.tokenizer).unwrap();
    let error = corpus.check_tokenizer(&tokenizer(tokens("学"), false)).unwrap_err();
    assert!(matches!(&error, DataError::Stale { what: "tokenizer", .. }), "{error}");
    // A word more in the lexicon that the shards were built with.
    let with = ShardBuildRequest { lexicon: Some(lexicon.clone()), when_stale: WhenStale::Rebuild, ..good };
    prepare(&with).unwrap();
    fs::write(&lexicon, "北京大学\n北大\n").unwrap();
    let error = prepare(&ShardBuildRequest { when_stale: WhenStale::Refuse, ..with }).unwrap_err();
    assert!(matches!(&error, DataError::Stale { what: "lexicon", .. }), "{error}");
}

#[test]
fn a_corpus_file_that_changed_after_building_is_noticed_however_small_the_change() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = request(&dir, &many_documents());
    request.shard_text_bytes = 300;
    prepare(&request).unwrap();
    let text = many_documents();
    for changed in [text.replacen('a', "b", 1), text[..text.len() - 1].to_owned(), format!("{text}\n"), {
        let mut documents: Vec<&str> = text.split_inclusive("\n\n").collect();
        documents.swap(0, 1);
        documents.concat()
    }] {
        fs::write(&request.sources[0], changed).unwrap();
        let error = prepare(&request).unwrap_err();
        assert!(matches!(&error, DataError::Stale { what: "text", .. }), "{error}");
        assert!(error.to_string().contains("shards` were built with another text"), "{error}");
    }
    fs::write(&request.sources[0], text).unwrap();
    prepare(&request).unwrap();
}

#[test]
fn a_manifest_of_a_newer_version_is_named_and_can_be_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = request(&dir, &many_documents());
    let first = prepare(&request).unwrap();
    let newer = r#"{"format_version": 3, "corpus": {"anything": ["else"]}}"#;
    fs::write(request.dir.join("manifest.json"), newer).unwrap();
    for error in [prepare(&request).unwrap_err(), Corpus::open(&request.dir, Verify::Sizes).unwrap_err()] {
        assert_eq!(error.kind(), DataErrorKind::Damaged);
        for part in ["version of the shard format", "expected 2, got 3", "--rebuild"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
    request.when_stale = WhenStale::Rebuild;
    assert_eq!(prepare(&request).unwrap(), first);
}
