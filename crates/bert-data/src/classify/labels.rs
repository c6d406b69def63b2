//! The classes: names in the order of their ids.
//!
//! Taken from a list, or from the training rows: numbers in their order, other names in the order of their characters.

use super::table::{Table, TextRow};
use crate::error::DataError;
use std::collections::{BTreeSet, HashMap};

/// Setting that names the classes, in messages.
const SETTING: &str = "task.labels";

/// Classes with their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSet {
    names: Vec<String>,
    ids: HashMap<String, u32>,
}

impl LabelSet {
    /// The given classes, in this order.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] if there are fewer than two, one is empty or one comes twice.
    pub fn from_names(names: Vec<String>) -> Result<Self, DataError> {
        if names.len() < 2 {
            let got = if names.is_empty() { "none".to_owned() } else { format!("one, {:?}", names[0]) };
            return Err(DataError::config(SETTING, "at least two classes", got));
        }
        let mut ids = HashMap::new();
        for (id, name) in (0..).zip(&names) {
            if name.is_empty() {
                return Err(DataError::config(SETTING, "names that are not empty", "an empty one"));
            }
            if ids.insert(name.clone(), id).is_some() {
                return Err(DataError::config(SETTING, "every class once", format!("{name:?} twice")));
            }
        }
        Ok(Self { names, ids })
    }

    /// The classes of training rows.
    ///
    /// # Errors
    ///
    /// [`DataError::OneClass`] if all rows have the same one; [`DataError::BadText`] for a row without.
    pub fn from_table(table: &Table) -> Result<Self, DataError> {
        let mut found = BTreeSet::new();
        for row in &table.rows {
            found.insert(label_of(table, row)?);
        }
        if let (1, Some(label)) = (found.len(), found.first()) {
            let label = (*label).to_owned();
            return Err(DataError::OneClass { path: table.path.clone(), label, num_rows: table.rows.len() });
        }
        let mut names: Vec<String> = found.into_iter().map(str::to_owned).collect();
        if let Ok(numbers) = names.iter().map(|name| name.parse::<i64>()).collect::<Result<Vec<_>, _>>() {
            let mut sorted: Vec<_> = numbers.into_iter().zip(names).collect();
            sorted.sort();
            names = sorted.into_iter().map(|(_, name)| name).collect();
        }
        Self::from_names(names)
    }

    /// The names by id.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The class of every row of a table.
    ///
    /// # Errors
    ///
    /// [`DataError::UnknownLabel`] with file, line and the known classes; [`DataError::BadText`] for a row without.
    pub fn ids_of(&self, table: &Table) -> Result<Vec<u32>, DataError> {
        let id_of = |row: &TextRow| {
            let label = label_of(table, row)?;
            self.ids.get(label).copied().ok_or_else(|| DataError::UnknownLabel {
                path: table.path.clone(),
                line: row.line,
                label: label.to_owned(),
                known: self.names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
            })
        };
        table.rows.iter().map(id_of).collect()
    }
}

fn label_of<'a>(table: &Table, row: &'a TextRow) -> Result<&'a str, DataError> {
    row.label.as_deref().filter(|label| !label.is_empty()).ok_or_else(|| DataError::BadText {
        path: table.path.clone(),
        place: format!("line {}", row.line),
        expected: "a label".to_owned(),
        got: "none".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(labels: &[&str]) -> Table {
        let row = |(line, label): (u64, &&str)| TextRow {
            text: "text".into(),
            text_pair: None,
            label: Some((*label).to_owned()),
            line,
        };
        Table { path: "rows.tsv".into(), rows: (2..).zip(labels).map(row).collect(), blake3: String::new() }
    }

    #[test]
    fn numbers_and_names_have_their_own_order() {
        assert_eq!(
            LabelSet::from_table(&table(&["10", "9", "10", "-1"])).unwrap().names(),
            ["-1", "9", "10"]
        );
        assert_eq!(LabelSet::from_table(&table(&["b", "10", "9"])).unwrap().names(), ["10", "9", "b"]);
    }

    #[test]
    fn a_list_gives_the_ids() {
        let labels = LabelSet::from_names(["b".into(), "a".into(), "c".into()].to_vec()).unwrap();
        assert_eq!(labels.ids_of(&table(&["a", "b", "a"])).unwrap(), [1, 0, 1]);
    }

    #[test]
    fn what_is_wrong_with_labels_is_said() {
        let message = |result: Result<LabelSet, DataError>| result.unwrap_err().to_string();
        let names = |names: &[&str]| LabelSet::from_names(names.iter().map(ToString::to_string).collect());
        assert!(message(names(&["a", "b", "a"])).contains("every class once, got \"a\" twice"));
        assert!(message(names(&["a"])).contains("at least two classes, got one, \"a\""));
        let one = message(LabelSet::from_table(&table(&["x", "x"])));
        assert!(one.contains("all 2 rows") && one.contains("`x`"), "{one}");
        assert!(message(LabelSet::from_table(&table(&["x", ""]))).contains("line 3"));
        let unknown = names(&["a", "b"]).unwrap().ids_of(&table(&["a", "z"])).unwrap_err().to_string();
        assert!(
            unknown.contains("line 3") && unknown.contains("`z`") && unknown.contains("`a`, `b`"),
            "{unknown}"
        );
    }
}
