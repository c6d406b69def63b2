//! Tokens to add to a vocabulary: which are new, what they consist of, and whether text can ever reach them.
//!
//! Owns the rules; knows no model. Existing ids never change.

use std::{fs, path::Path};

use anyhow::Context;
use bert_data::Tokenizer;

use crate::failure::ToolError;

/// Prefix of pieces that continue a word.
const CONTINUATION: &str = "##";

/// New tokens with the vocabulary that they are part of.
#[derive(Debug)]
pub struct NewTokens {
    /// For each new token, in the order of its id, the old ids that it consists of; empty if nothing of it is known.
    pub pieces: Vec<Vec<u32>>,
    /// Tokens of the file that the vocabulary had already.
    pub num_known: usize,
    /// The larger vocabulary.
    pub tokenizer: Tokenizer,
}

impl NewTokens {
    /// Reads tokens from a file, one a line; white space around them and empty lines do not count.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or holds a token that no text can give: one with a space or CJK character inside,
    /// say, where text is always cut, or an upper-case one in an uncased vocabulary.
    pub fn read(file: &Path, old: &Tokenizer) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file)
            .with_context(|| format!("cannot read the new tokens in `{}`", file.display()))?;
        let mut tokens: Vec<String> =
            (0..old.vocab_size() as u32).map_while(|id| old.id_to_token(id)).map(str::to_owned).collect();
        let num_old = tokens.len();
        let rebuilt = Tokenizer::from_tokens(tokens.clone(), old.lowercase(), file)?;
        if rebuilt.fingerprint() != old.fingerprint() {
            let message =
                "the rules of this tokenizer.json are not those of BERT: its vocabulary cannot grow";
            return Err(ToolError::Damaged(message.to_string()).into());
        }
        let mut num_known = 0;
        for token in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if old.token_to_id(token).is_some() || tokens[num_old..].iter().any(|new| new == token) {
                num_known += 1;
            } else {
                tokens.push(token.to_owned());
            }
        }
        let tokenizer = Tokenizer::from_tokens(tokens.clone(), old.lowercase(), file)?;
        check_reachable(file, &tokenizer, &tokens[num_old..], num_old as u32)?;
        let pieces = tokens[num_old..].iter().map(|token| pieces_of(token, old)).collect::<Result<_, _>>()?;
        Ok(Self { pieces, num_known, tokenizer })
    }
}

/// Every new token is what its own text becomes.
fn check_reachable(
    file: &Path,
    tokenizer: &Tokenizer,
    tokens: &[String],
    first_id: u32,
) -> anyhow::Result<()> {
    let mut unreachable = Vec::new();
    for (id, token) in (first_id..).zip(tokens) {
        // A continuation is reached only behind another piece.
        if !token.starts_with(CONTINUATION) && tokenizer.encode_line(token)?.ids != [id] {
            unreachable.push(token.as_str());
        }
    }
    if unreachable.is_empty() {
        return Ok(());
    }
    let message = format!(
        "`{}`: {} tokens can never come out of text, because it is cut inside of them (at spaces, punctuation and \
         CJK characters) or changed before (case, accents): {}",
        file.display(),
        unreachable.len(),
        unreachable.join(", ")
    );
    Err(ToolError::Damaged(message).into())
}

/// The old ids that a token consists of, without the unknown ones.
fn pieces_of(token: &str, old: &Tokenizer) -> anyhow::Result<Vec<u32>> {
    if let Some(rest) = token.strip_prefix(CONTINUATION) {
        return Ok(continuations(rest, old));
    }
    let unk = old.special().unk;
    Ok(old.encode_line(token)?.ids.into_iter().filter(|&id| id != unk).collect())
}

/// Greedy longest match of continuing pieces; what no piece matches is passed over.
fn continuations(mut rest: &str, old: &Tokenizer) -> Vec<u32> {
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8()).collect::<Vec<_>>();
        let longest = ends.iter().rev().find_map(|&end| {
            let id = old.token_to_id(&format!("{CONTINUATION}{}", &rest[..end]))?;
            Some((end, id))
        });
        pieces.extend(longest.map(|(_, id)| id));
        rest = &rest[longest.map_or(ends[0], |(end, _)| end)..];
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old() -> Tokenizer {
        let tokens =
            ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "immun", "##o", "##ther", "##apy", "the", "药"];
        Tokenizer::from_tokens(tokens.map(str::to_owned).to_vec(), true, Path::new("old")).unwrap()
    }

    fn read(text: &str) -> anyhow::Result<NewTokens> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new.txt");
        fs::write(&file, text).unwrap();
        NewTokens::read(&file, &old())
    }

    #[test]
    fn new_tokens_follow_the_old_ones_and_know_their_pieces() {
        let new = read("immunotherapy\n\n the \n##otherx\nzzz\nimmunotherapy\n").unwrap();
        assert_eq!(new.num_known, 2);
        assert_eq!(new.tokenizer.token_to_id("immunotherapy"), Some(11));
        assert_eq!(new.tokenizer.token_to_id("zzz"), Some(13));
        assert_eq!(new.pieces, [vec![5, 6, 7, 8], vec![6, 7], vec![]]);
        assert_eq!(new.tokenizer.encode_line("the immunotherapy").unwrap().ids, [9, 11]);
    }

    #[test]
    fn tokens_that_no_text_gives_are_refused_by_name() {
        let message = read("Upper\n中药\ntwo words\nfine\n").unwrap_err().to_string();
        assert!(message.contains("3 tokens can never come out of text"), "{message}");
        assert!(message.ends_with("Upper, 中药, two words"), "{message}");
    }
}
