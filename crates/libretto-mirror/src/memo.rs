//! What need not be worked out again: versions of tables, and answers with what they were computed from.
//!
//! An evaluation mostly repeats one before it. A query whose tables have the rows they had is not run again; one that is run
//! and gives what it gave keeps its version, so that nothing above it is run either (early cut-off, as build systems do it).
//! Not only the last answer is kept: one working set serves many instances, whose rows come and go in turn.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use crate::{Datum, Row, Rows, Table};

/// A query and what it depends on.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub sql: &'a str,
    /// Tables and views it reads.
    pub reads: &'a BTreeSet<String>,
    /// Names of its `:parameters`.
    pub parameters: &'a [String],
}

/// Rows with the version they have in one sheet: equal versions mean equal rows, and a version is never used twice.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub rows: Rows,
    pub version: u64,
}

/// Bytes of rows that are remembered, about: what a package's queries give for some dozens of instances. When there is more,
/// everything is forgotten and comes back as it is asked for.
const REMEMBERED: usize = 16 * 1024 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Memo {
    last: u64,
    /// By name; tables and views are spoken of by their number.
    tables: HashMap<String, usize>,
    holds: Vec<Holds>,
    questions: Vec<Question>,
    by_text: HashMap<String, usize>,
    /// By where the text was when it was asked last. A package's texts stay where they are, and are long.
    by_place: HashMap<usize, usize>,
    /// Versions that the question at hand depends on.
    depends: Vec<u64>,
    /// Rows that tables were filled with, and values of parameters, by hash.
    contents: HashMap<u64, Vec<(Content, u64)>>,
    parameters: HashMap<String, u64>,
    size: usize,
}

/// What a table or view should have, and what is in the database.
#[derive(Debug, Default)]
struct Holds {
    /// `None` while nobody knows its rows.
    now: Option<(Filling, u64)>,
    /// Version of the rows in the database.
    written: Option<u64>,
}

/// Rows of a table.
#[derive(Debug, Clone)]
pub(crate) enum Filling {
    Given(Table),
    Computed(Arc<Answer>),
}

#[derive(Debug, PartialEq)]
enum Content {
    Table(usize, Table),
    Parameter(String, Datum),
}

#[derive(Debug)]
struct Question {
    sql: String,
    /// Tables and views it reads. A name that is neither is a function: `json_each`.
    reads: Vec<usize>,
    parameters: Vec<String>,
    last: Option<(Box<[u64]>, Arc<Answer>)>,
    /// What it gave for these versions of tables and parameters.
    known: HashMap<Box<[u64]>, Arc<Answer>>,
    /// What it gave, by hash.
    answers: HashMap<u64, Vec<Arc<Answer>>>,
}

fn hash_of(hash: impl FnOnce(&mut DefaultHasher)) -> u64 {
    let mut hasher = DefaultHasher::new();
    hash(&mut hasher);
    hasher.finish()
}

fn bytes_of<'a>(data: impl IntoIterator<Item = &'a Datum>) -> usize {
    data.into_iter()
        .map(|datum| size_of::<Datum>() + datum.as_str().map_or(0, str::len))
        .sum()
}

/// Equal rows; those that are shared are not compared.
fn same_rows(a: &[Row], b: &[Row]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b) || a == b)
}

impl Memo {
    /// A number that stands for new rows.
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Number of a table or view.
    pub(crate) fn place(&mut self, table: &str) -> usize {
        if let Some(place) = self.tables.get(table) {
            return *place;
        }
        let place = self.holds.len();
        self.tables.insert(table.to_owned(), place);
        self.holds.push(Holds::default());
        place
    }

    /// Makes room when there is too much.
    fn make_room(&mut self) {
        if self.size > REMEMBERED {
            self.size = 0;
            self.contents.clear();
            for question in &mut self.questions {
                question.known.clear();
                question.answers.clear();
            }
        }
    }

    fn version_of(&mut self, content: Content) -> u64 {
        let hash = hash_of(|hasher| match &content {
            Content::Table(place, table) => {
                place.hash(hasher);
                table.rows.hash(hasher);
            }
            Content::Parameter(name, value) => {
                name.hash(hasher);
                value.hash(hasher);
            }
        });
        if let Some((_, version)) = self
            .contents
            .get(&hash)
            .and_then(|known| known.iter().find(|(known, _)| *known == content))
        {
            return *version;
        }
        self.make_room();
        self.size += match &content {
            Content::Table(_, table) => bytes_of(table.rows.iter().flat_map(|row| row.iter())),
            Content::Parameter(_, value) => bytes_of([value]),
        };
        let version = self.next();
        self.contents
            .entry(hash)
            .or_default()
            .push((content, version));
        version
    }

    /// The table has these rows from now on.
    pub(crate) fn fill(&mut self, table: &str, rows: &Table) {
        let place = self.place(table);
        if let Some((Filling::Given(known), _)) = &self.holds[place].now
            && known.columns == rows.columns
            && same_rows(&known.rows, &rows.rows)
        {
            return;
        }
        let version = self.version_of(Content::Table(place, rows.clone()));
        self.holds[place].now = Some((Filling::Given(rows.clone()), version));
    }

    /// The view has these rows from now on.
    pub(crate) fn fill_view(&mut self, view: &str, answer: Arc<Answer>) {
        let place = self.place(view);
        let version = answer.version;
        self.holds[place].now = Some((Filling::Computed(answer), version));
    }

    /// Nobody knows the view's rows.
    pub(crate) fn unknown(&mut self, view: &str) {
        let place = self.place(view);
        self.holds[place].now = None;
    }

    /// A parameter has this value from now on.
    pub(crate) fn set_parameter(&mut self, name: &str, value: &Datum) {
        let content = Content::Parameter(name.to_owned(), value.clone());
        let version = self.version_of(content);
        match self.parameters.get_mut(name) {
            Some(known) => *known = version,
            None => {
                self.parameters.insert(name.to_owned(), version);
            }
        }
    }

    pub(crate) fn clear_parameters(&mut self) {
        self.parameters.clear();
    }

    /// Number of a question.
    pub(crate) fn question(&mut self, asked: &Asked<'_>) -> usize {
        let place = asked.sql.as_ptr().addr();
        if let Some(number) = self.by_place.get(&place)
            && self.questions[*number].sql == asked.sql
        {
            return *number;
        }
        let number = self.by_text.get(asked.sql).copied().unwrap_or_else(|| {
            self.questions.push(Question {
                sql: asked.sql.to_owned(),
                reads: asked
                    .reads
                    .iter()
                    .filter_map(|table| self.tables.get(table).copied())
                    .collect(),
                parameters: asked.parameters.to_vec(),
                last: None,
                known: HashMap::new(),
                answers: HashMap::new(),
            });
            let number = self.questions.len() - 1;
            self.by_text.insert(asked.sql.to_owned(), number);
            number
        });
        // Texts that were freed leave their places behind.
        if self.by_place.len() > 2 * self.questions.len() {
            self.by_place.clear();
        }
        self.by_place.insert(place, number);
        number
    }

    /// What the question's rows follow from; whether all of it is known to be whole.
    fn look(&mut self, question: usize) -> bool {
        let question = &self.questions[question];
        let tables = question
            .reads
            .iter()
            .map(|place| Some(self.holds[*place].now.as_ref()?.1));
        let parameters = question
            .parameters
            .iter()
            .map(|name| self.parameters.get(name).copied());
        self.depends.clear();
        for version in tables.chain(parameters) {
            match version {
                Some(version) => self.depends.push(version),
                None => return false,
            }
        }
        true
    }

    /// What the question gave when it depended on the same.
    pub(crate) fn answer(&mut self, number: usize) -> Option<Arc<Answer>> {
        if !self.look(number) {
            return None;
        }
        let question = &mut self.questions[number];
        if let Some((depends, answer)) = &question.last
            && **depends == *self.depends
        {
            return Some(Arc::clone(answer));
        }
        let answer = question.known.get(self.depends.as_slice()).cloned()?;
        question.last = Some((self.depends.as_slice().into(), Arc::clone(&answer)));
        Some(answer)
    }

    /// Takes in what the question gave. The same rows as before keep their version.
    pub(crate) fn answered(&mut self, number: usize, rows: Rows) -> Arc<Answer> {
        self.make_room();
        let whole = self.look(number);
        let hash = hash_of(|hasher| rows.rows.hash(hasher));
        let former = self.questions[number]
            .answers
            .get(&hash)
            .and_then(|known| known.iter().find(|answer| answer.rows == rows).cloned());
        let answer = former.clone().unwrap_or_else(|| {
            let version = self.next();
            Arc::new(Answer { rows, version })
        });
        let question = &mut self.questions[number];
        if former.is_none() {
            self.size += bytes_of(answer.rows.rows.iter().flatten());
            let known = question.answers.entry(hash).or_default();
            known.push(Arc::clone(&answer));
        }
        if whole {
            let depends: Box<[u64]> = self.depends.as_slice().into();
            self.size += size_of_val::<[u64]>(&depends) + size_of::<(Box<[u64]>, usize)>();
            question.known.insert(depends, Arc::clone(&answer));
        }
        answer
    }

    /// Tables whose rows in the database are not those they should have: among what a question reads, or all.
    pub(crate) fn stale(&self, question: Option<usize>) -> Vec<(String, Filling, u64)> {
        let wanted = question.map(|number| &self.questions[number].reads);
        let stale = |place: usize| {
            let holds = &self.holds[place];
            let (filling, version) = holds.now.as_ref()?;
            (holds.written != Some(*version)).then(|| (filling.clone(), *version))
        };
        if wanted.is_some_and(|reads| reads.iter().all(|place| stale(*place).is_none())) {
            return Vec::new();
        }
        self.tables
            .iter()
            .filter(|(_, place)| wanted.is_none_or(|reads| reads.contains(place)))
            .filter_map(|(name, place)| {
                let (filling, version) = stale(*place)?;
                Some((name.clone(), filling, version))
            })
            .collect()
    }

    /// The table's rows in the database are about to change (`None`), or are of this version.
    pub(crate) fn wrote(&mut self, table: &str, version: Option<u64>) {
        let place = self.place(table);
        self.holds[place].written = version;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_room_for_is_forgotten_and_known_again() {
        let mut memo = Memo::default();
        let reads = BTreeSet::from(["t".to_owned()]);
        let asked = Asked {
            sql: "SELECT text FROM t",
            reads: &reads,
            parameters: &[],
        };
        let table = |text: &str| Table {
            columns: ["text".to_owned()].into(),
            rows: vec![[Datum::from(text)].into()],
        };
        let mut most = 0;
        let long = "x".repeat(REMEMBERED / 10);
        for number in 0..40 {
            memo.fill("t", &table(&format!("{number}{long}")));
            let question = memo.question(&asked);
            assert!(memo.answer(question).is_none());
            memo.answered(question, Rows::default());
            most = most.max(memo.size);
        }
        assert!(most < 2 * REMEMBERED, "{most}");
        // The last one is still there, the first is not.
        let question = memo.question(&asked);
        assert!(memo.answer(question).is_some());
        memo.fill("t", &table(&format!("0{long}")));
        assert!(memo.answer(question).is_none());
    }

    #[test]
    fn another_text_in_the_same_place_is_another_question() {
        let mut memo = Memo::default();
        let reads = BTreeSet::new();
        let mut number = |sql: &str| {
            memo.question(&Asked {
                sql,
                reads: &reads,
                parameters: &[],
            })
        };
        let mut text = "SELECT 1".to_owned();
        let one = number(&text);
        text.replace_range(7.., "2");
        let two = number(&text);
        assert_ne!(one, two);
        assert_eq!(number("SELECT 1"), one);
    }
}
