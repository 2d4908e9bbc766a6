//! What has not changed since it was last looked at: versions of tables, and answers with what they were computed from.
//!
//! An evaluation mostly repeats the one before it. A query whose tables have the rows they had is not run again; one that is run
//! and gives what it gave keeps its version, so that nothing above it is run either (early cut-off, as build systems do it).

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::{Datum, Rows, Table};

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

/// Bounded by the package: one entry per table and query, each no larger than what a query may give.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    last: u64,
    /// Of tables and views whose rows are whole.
    versions: HashMap<String, u64>,
    tables: HashMap<String, Table>,
    answers: HashMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    depends: Depends,
    answer: Arc<Answer>,
}

/// All that a query's rows follow from.
#[derive(Debug, PartialEq)]
pub(crate) struct Depends {
    /// Versions of what it reads.
    inputs: Vec<u64>,
    parameters: Vec<Datum>,
}

impl Memo {
    /// A number that stands for new rows.
    pub(crate) fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Whether the table has exactly these rows already.
    pub(crate) fn holds(&self, table: &str, rows: &Table) -> bool {
        self.versions.contains_key(table) && self.tables.get(table) == Some(rows)
    }

    /// The table is about to be written: until [`Memo::wrote`] nobody knows its rows.
    pub(crate) fn writing(&mut self, table: &str) {
        self.versions.remove(table);
    }

    pub(crate) fn wrote(&mut self, table: &str, rows: Table) {
        let version = self.next();
        self.versions.insert(table.to_owned(), version);
        self.tables.insert(table.to_owned(), rows);
    }

    pub(crate) fn version(&self, table: &str) -> Option<u64> {
        self.versions.get(table).copied()
    }

    pub(crate) fn set_version(&mut self, view: &str, version: u64) {
        self.versions.insert(view.to_owned(), version);
    }

    /// `None` when something a query reads is not known to be whole.
    pub(crate) fn depends(
        &self,
        asked: &Asked<'_>,
        parameters: &HashMap<String, Datum>,
    ) -> Option<Depends> {
        Some(Depends {
            inputs: asked
                .reads
                .iter()
                .map(|table| self.version(table))
                .collect::<Option<_>>()?,
            parameters: asked
                .parameters
                .iter()
                .map(|name| parameters.get(name).cloned())
                .collect::<Option<_>>()?,
        })
    }

    /// What the query gave when it depended on the same.
    pub(crate) fn answer(&self, sql: &str, depends: &Depends) -> Option<Arc<Answer>> {
        self.answers
            .get(sql)
            .filter(|known| known.depends == *depends)
            .map(|known| Arc::clone(&known.answer))
    }

    /// Takes in what a query gave. The same rows as before keep their version.
    pub(crate) fn answered(
        &mut self,
        sql: &str,
        depends: Option<Depends>,
        rows: Rows,
    ) -> Arc<Answer> {
        let former = self
            .answers
            .get(sql)
            .filter(|known| known.answer.rows == rows)
            .map(|known| Arc::clone(&known.answer));
        let answer = former.unwrap_or_else(|| {
            let version = self.next();
            Arc::new(Answer { rows, version })
        });
        match depends {
            Some(depends) => {
                let known = Known {
                    depends,
                    answer: Arc::clone(&answer),
                };
                self.answers.insert(sql.to_owned(), known);
            }
            None => {
                self.answers.remove(sql);
            }
        }
        answer
    }
}
