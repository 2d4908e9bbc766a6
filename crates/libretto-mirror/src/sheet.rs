//! The working set a decision is made on: one package's tables and views, filled from one snapshot.
//!
//! Views are materialised once each, in the order the caller gives, so that a rule that joins three of them costs three small
//! scans and not a query over queries.

use std::{cell::RefCell, collections::BTreeMap, fmt::Write as _, sync::Arc};

use libretto_api::intent::Millis;
use rusqlite::{Connection, params_from_iter};

use crate::{
    Answer, Asked, CLOCK_COLUMNS, ColumnType, Datum, INSTANCE_COLUMNS, Limits, MirrorError,
    OBJECT_COLUMNS, PROBE_COLUMNS, PackageSchema, Row, Snapshot, SqlError, Table, WATCH_COLUMNS,
    lock::Lock,
    memo::{Filling, Memo},
};

/// One package's tables and views in a small database of its own. From one use to the next it keeps prepared statements and what it
/// answered; rows are written to the database when a query reads them that has not been answered for the same rows already. What it
/// answers never depends on what it was asked before.
#[derive(Debug)]
pub struct Sheet {
    connection: Connection,
    lock: Arc<Lock>,
    tables: BTreeMap<String, SheetTable>,
    views: BTreeMap<String, SheetTable>,
    /// The instance's columns and row, for `:parameters`.
    parameters: RefCell<Option<(Arc<[String]>, Row)>>,
    memo: RefCell<Memo>,
}

#[derive(Debug)]
struct SheetTable {
    columns: Vec<String>,
    clear: String,
    insert: String,
}

/// What a statement gives and reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    pub columns: Vec<ResultColumn>,
    /// Every (table, column) it reads; the column is empty when only the row counts.
    pub reads: Vec<(String, String)>,
    /// Names of its `:parameters`, without the colon; empty for one without a name.
    pub parameters: Vec<String>,
}

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultColumn {
    pub name: String,
    /// Declared type when the column comes straight from a table.
    pub kind: Option<ColumnType>,
}

/// A result.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    pub columns: Vec<ResultColumn>,
    pub rows: Vec<Vec<Datum>>,
}

impl Sheet {
    /// Makes the tables of a package: `cr`, `clock`, `objects`, and one for every sensed table.
    pub fn new(schema: &PackageSchema) -> Result<Self, MirrorError> {
        let mut connection = Connection::open_in_memory()?;
        let lock = Lock::install(&mut connection)?;
        let mut sheet = Self {
            connection,
            lock,
            tables: BTreeMap::new(),
            views: BTreeMap::new(),
            parameters: RefCell::default(),
            memo: RefCell::default(),
        };
        for (name, columns) in tables(schema) {
            let columns: Vec<(String, Option<ColumnType>)> = columns
                .into_iter()
                .map(|(column, kind)| (column, Some(kind)))
                .collect();
            let table = sheet.create(&name, &columns)?;
            sheet.memo.get_mut().place(&name);
            sheet.tables.insert(name, table);
        }
        Ok(sheet)
    }

    fn create(
        &self,
        name: &str,
        columns: &[(String, Option<ColumnType>)],
    ) -> Result<SheetTable, MirrorError> {
        let mut ddl = format!("CREATE TABLE {} (", quoted(name));
        for (index, (column, kind)) in columns.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            let _ = write!(
                ddl,
                "{separator}{} {}",
                quoted(column),
                kind.map_or("", ColumnType::sql)
            );
        }
        ddl.push(')');
        self.connection.execute_batch(&ddl)?;
        let marks = vec!["?"; columns.len()].join(", ");
        Ok(SheetTable {
            columns: columns.iter().map(|(column, _)| column.clone()).collect(),
            clear: format!("DELETE FROM {}", quoted(name)),
            insert: format!("INSERT INTO {} VALUES ({marks})", quoted(name)),
        })
    }

    /// Checks a statement against the tables and views there are, and says what it gives and reads.
    pub fn describe(&self, sql: &str) -> Result<Described, SqlError> {
        let mut described = self.lock.describe(&self.connection, sql)?;
        // SQLite does not tell of a table that only a USING reads. A name that is mentioned counts as read: too much is
        // harmless, too little would hide that a rule stands on a table nobody has filled yet.
        for name in mentioned(sql) {
            let known = self
                .tables
                .keys()
                .chain(self.views.keys())
                .find(|known| known.eq_ignore_ascii_case(&name));
            if let Some(known) = known
                && !described.reads.iter().any(|(table, _)| table == known)
            {
                described.reads.push((known.clone(), String::new()));
            }
        }
        described.reads.sort();
        Ok(described)
    }

    /// Makes the table that a view's rows go to.
    pub fn add_view(&mut self, name: &str, columns: &[ResultColumn]) -> Result<(), MirrorError> {
        let columns: Vec<(String, Option<ColumnType>)> = columns
            .iter()
            .map(|column| (column.name.clone(), column.kind))
            .collect();
        let table = self.create(name, &columns)?;
        self.memo.get_mut().place(name);
        self.views.insert(name.to_owned(), table);
        Ok(())
    }

    /// Names of the tables (not views), for messages.
    pub fn table_names(&self) -> impl Iterator<Item = &str> {
        self.tables.keys().map(String::as_str)
    }

    /// Column names of a table or view.
    pub fn columns_of(&self, name: &str) -> Option<&[String]> {
        self.tables
            .get(name)
            .or_else(|| self.views.get(name))
            .map(|table| table.columns.as_slice())
    }

    /// Makes the tables hold the snapshot's rows.
    pub fn fill(&self, snapshot: &Snapshot, now: Millis) {
        let mut memo = self.memo.borrow_mut();
        for name in self.tables.keys() {
            let made;
            let rows = match name.as_str() {
                "objects" => {
                    made = object_rows(snapshot);
                    &made
                }
                "clock" => {
                    made = clock(now);
                    &made
                }
                _ => match snapshot.tables.get(name) {
                    Some(rows) => rows,
                    None => {
                        made = Table::default();
                        &made
                    }
                },
            };
            memo.fill(name, rows);
        }
        let cr = snapshot
            .tables
            .get("cr")
            .and_then(|cr| Some((Arc::clone(&cr.columns), Arc::clone(cr.rows.first()?))));
        let mut parameters = self.parameters.borrow_mut();
        if let (Some((columns, row)), Some((known, former))) = (&cr, parameters.as_ref())
            && Arc::ptr_eq(columns, known)
            && Arc::ptr_eq(row, former)
        {
            return;
        }
        memo.clear_parameters();
        if let Some((columns, row)) = &cr {
            for (name, value) in columns.iter().zip(row.iter()) {
                memo.set_parameter(name, value);
            }
        }
        *parameters = cr;
    }

    /// Brings rows into the database: what the question reads, or everything.
    fn write(&self, question: Option<usize>) -> Result<(), SqlError> {
        let stale = self.memo.borrow().stale(question);
        for (name, filling, version) in stale {
            let Some(table) = self.tables.get(&name).or_else(|| self.views.get(&name)) else {
                continue;
            };
            self.memo.borrow_mut().wrote(&name, None);
            match &filling {
                Filling::Given(rows) => self.insert(table, rows),
                Filling::Computed(answer) => self.insert_answer(table, answer),
            }
            .map_err(|error| SqlError::Run(format!("table {name} could not be filled: {error}")))?;
            self.memo.borrow_mut().wrote(&name, Some(version));
        }
        Ok(())
    }

    /// Replaces a table's rows.
    fn insert(&self, table: &SheetTable, rows: &Table) -> rusqlite::Result<()> {
        let places: Vec<Option<usize>> = table
            .columns
            .iter()
            .map(|column| rows.columns.iter().position(|name| name == column))
            .collect();
        self.connection.prepare_cached(&table.clear)?.execute([])?;
        let mut statement = self.connection.prepare_cached(&table.insert)?;
        for row in &rows.rows {
            let values = places.iter().map(|place| {
                place
                    .and_then(|place| row.get(place))
                    .unwrap_or(&Datum::Null)
            });
            statement.execute(params_from_iter(values))?;
        }
        Ok(())
    }

    fn insert_answer(&self, table: &SheetTable, answer: &Answer) -> rusqlite::Result<()> {
        self.connection.prepare_cached(&table.clear)?.execute([])?;
        let mut statement = self.connection.prepare_cached(&table.insert)?;
        for row in &answer.rows.rows {
            statement.execute(params_from_iter(row.iter()))?;
        }
        Ok(())
    }

    /// Makes a view's table hold what its query gives.
    pub fn materialise(
        &self,
        view: &str,
        asked: &Asked<'_>,
        limits: Limits,
    ) -> Result<(), SqlError> {
        if !self.views.contains_key(view) {
            return Err(SqlError::Run(format!("view {view} was not added")));
        }
        match self.answer(asked, limits) {
            Ok(answer) => {
                self.memo.borrow_mut().fill_view(view, answer);
                Ok(())
            }
            Err(error) => {
                self.memo.borrow_mut().unknown(view);
                Err(error)
            }
        }
    }

    /// Puts given rows under a view's name instead of running it: a test of the views above it.
    pub fn put_view(&self, view: &str, rows: &Table) -> Result<(), SqlError> {
        if !self.views.contains_key(view) {
            return Err(SqlError::Run(format!("there is no view {view}")));
        }
        self.memo.borrow_mut().fill(view, rows);
        Ok(())
    }

    /// What a query over tables and materialised views gives. It is run only when it was not run for the same rows before.
    pub fn answer(&self, asked: &Asked<'_>, limits: Limits) -> Result<Arc<Answer>, SqlError> {
        let question = self.memo.borrow_mut().question(asked);
        if let Some(answer) = self.memo.borrow_mut().answer(question) {
            return Ok(answer);
        }
        self.write(Some(question))?;
        let rows = self.run(asked.sql, limits)?;
        Ok(self.memo.borrow_mut().answered(question, rows))
    }

    /// Runs a query over tables and materialised views.
    pub fn rows(&self, sql: &str, limits: Limits) -> Result<Rows, SqlError> {
        self.write(None)?;
        self.run(sql, limits)
    }

    fn run(&self, sql: &str, limits: Limits) -> Result<Rows, SqlError> {
        let parameters = self.parameters.borrow();
        let value = |name: &str| {
            let (columns, row) = parameters.as_ref()?;
            let place = columns.iter().position(|column| column == name)?;
            row.get(place).cloned()
        };
        self.lock.rows(&self.connection, sql, &value, limits)
    }
}

/// Words of a statement that may name a table: not in strings or comments, not after `.`, `:` or AS.
fn mentioned(sql: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut previous = String::new();
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let end_after = |from: usize, end: &str| {
            rest[from..]
                .find(end)
                .map_or(rest.len(), |index| from + index + end.len())
        };
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let (length, token) = match first {
            '\'' => (end_after(1, "'"), String::new()),
            '-' if rest.starts_with("--") => (end_after(2, "\n"), previous.clone()),
            '/' if rest.starts_with("/*") => (end_after(2, "*/"), previous.clone()),
            '"' | '`' | '[' => {
                let close = match first {
                    '[' => "]",
                    '"' => "\"",
                    _ => "`",
                };
                let length = end_after(1, close);
                let name = rest[1..length].trim_end_matches(close).to_owned();
                words.push(name.clone());
                (length, name)
            }
            c if is_word(c) => {
                let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                let word = rest[..length].to_owned();
                if !matches!(previous.as_str(), "." | ":") && !previous.eq_ignore_ascii_case("as") {
                    words.push(word.clone());
                }
                (length, word)
            }
            c if c.is_whitespace() => (c.len_utf8(), previous.clone()),
            c => (c.len_utf8(), c.to_string()),
        };
        previous = token;
        rest = &rest[length..];
    }
    words
}

/// Every table of a package with its typed columns.
fn tables(schema: &PackageSchema) -> Vec<(String, Vec<(String, ColumnType)>)> {
    let fixed = |columns: &[(&str, ColumnType)]| -> Vec<(String, ColumnType)> {
        columns
            .iter()
            .map(|(name, kind)| ((*name).to_owned(), *kind))
            .collect()
    };
    let mut all = Vec::new();
    let mut cr = fixed(INSTANCE_COLUMNS);
    cr.extend(
        schema
            .instance
            .fields
            .iter()
            .map(|field| (field.name.clone(), field.kind)),
    );
    all.push(("cr".to_owned(), cr));
    all.push(("objects".to_owned(), fixed(OBJECT_COLUMNS)));
    all.push((
        "clock".to_owned(),
        CLOCK_COLUMNS
            .iter()
            .map(|(name, _)| ((*name).to_owned(), ColumnType::Int))
            .collect(),
    ));
    for watch in &schema.watches {
        let mut columns = fixed(WATCH_COLUMNS);
        columns.extend(
            watch
                .columns
                .iter()
                .map(|column| (column.name.clone(), column.kind)),
        );
        all.push((watch.name.clone(), columns));
    }
    for probe in &schema.probes {
        let mut columns = fixed(PROBE_COLUMNS);
        columns.extend(
            probe
                .columns
                .iter()
                .map(|column| (column.name.clone(), column.kind)),
        );
        all.push((probe.name.clone(), columns));
    }
    all
}

fn object_rows(snapshot: &Snapshot) -> Table {
    Table {
        columns: OBJECT_COLUMNS
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect(),
        rows: snapshot
            .objects
            .iter()
            .filter(|row| {
                ["", &snapshot.instance.namespace].contains(&row.object.namespace.as_str())
            })
            .map(|row| {
                vec![
                    row.object.gvk.to_string().into(),
                    row.object.namespace.as_str().into(),
                    row.object.name.as_str().into(),
                    row.uid.as_str().into(),
                    row.owned.into(),
                    row.deleting.into(),
                    row.ready.into(),
                ]
                .into()
            })
            .collect(),
    }
}

fn clock(now: Millis) -> Table {
    Table {
        columns: CLOCK_COLUMNS
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect(),
        rows: vec![
            CLOCK_COLUMNS
                .iter()
                .map(|(_, period)| Datum::Int(now - now.rem_euclid(*period)))
                .collect(),
        ],
    }
}

/// An identifier in SQL.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
