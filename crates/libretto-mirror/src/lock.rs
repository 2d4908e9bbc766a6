//! What keeps SQL of others inside its bounds: an authorizer, a step counter, length limits.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use rusqlite::{
    Connection, Error, ErrorCode, Statement,
    config::DbConfig,
    hooks::{AuthAction, AuthContext, Authorization},
    limits::Limit,
    types::ValueRef,
};

use crate::{
    ColumnType, Datum, Described, Limits, ResultColumn, Rows, SqlError, backstop::Backstop,
    functions, limits::STEP_GRAIN,
};

/// A query longer than 64 KiB is generated, not written.
const LONGEST_STATEMENT: usize = 65_536;

/// Shared with the hooks of one connection.
#[derive(Debug, Default)]
pub(crate) struct Lock {
    /// SQL of others is being prepared: only reading is allowed.
    locked: AtomicBool,
    /// Steps left for the running statement; the runtime's own statements are not counted.
    steps: AtomicU64,
    counting: AtomicBool,
    /// The bound on time is this many times a package's.
    patience: AtomicU32,
    running: Mutex<Option<Running>>,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Running {
    backstop: Backstop,
    /// Why it was ended.
    ended: Option<SqlError>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Why the last statement was refused.
    denied: Option<String>,
    /// (table, column) the last prepared statement reads.
    reads: BTreeSet<(String, String)>,
}

impl Lock {
    /// Puts hooks and limits on a new connection.
    pub(crate) fn install(connection: &mut Connection) -> rusqlite::Result<Arc<Self>> {
        // Nothing here outlives the process, so no journal; the cache holds every statement of a large package.
        connection.execute_batch(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;",
        )?;
        // Values of parameters do not choose the plan; otherwise binding them would compile the statement anew at every run.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        functions::install(connection)?;
        // 1024: a package has tens of statements; the bound only exists because a cache must have one.
        connection.set_prepared_statement_cache_capacity(1024);
        // Deep enough for any written query, shallow enough for SQLite's recursion on a thread's stack.
        connection.set_limit(Limit::SQLITE_LIMIT_EXPR_DEPTH, 200)?;
        connection.set_limit(Limit::SQLITE_LIMIT_COMPOUND_SELECT, 50)?;
        connection.set_limit(
            Limit::SQLITE_LIMIT_SQL_LENGTH,
            i32::try_from(LONGEST_STATEMENT).unwrap_or(i32::MAX),
        )?;
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        // Patterns with many wildcards are the one function whose cost is not counted in steps.
        connection.set_limit(Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 256)?;
        // Twice the longest value: concatenations may pass the bound before the result is judged.
        connection.set_limit(
            Limit::SQLITE_LIMIT_LENGTH,
            i32::try_from(Limits::PACKAGE.value * 2).unwrap_or(i32::MAX),
        )?;
        let lock = Arc::new(Self::default());
        let hook = Arc::clone(&lock);
        connection.authorizer(Some(move |context: AuthContext<'_>| hook.judge(&context)))?;
        let hook = Arc::clone(&lock);
        connection.progress_handler(
            i32::try_from(STEP_GRAIN).unwrap_or(1_000),
            Some(move || hook.spend()),
        )?;
        Ok(lock)
    }

    /// Decides on one action of a statement being prepared.
    fn judge(&self, context: &AuthContext<'_>) -> Authorization {
        if !self.locked.load(Ordering::Relaxed) {
            return Authorization::Allow;
        }
        let denied = match context.action {
            AuthAction::Select | AuthAction::Recursive => None,
            AuthAction::Read {
                table_name,
                column_name,
            } => {
                // `dbstat` is there without being made, and tells how the database is laid out.
                if table_name.starts_with("sqlite_")
                    || table_name.starts_with("pragma_")
                    || table_name == "dbstat"
                {
                    Some(format!("reading {table_name}"))
                } else {
                    let mut seen = self.seen.lock();
                    seen.reads
                        .insert((table_name.to_owned(), column_name.to_owned()));
                    None
                }
            }
            AuthAction::Function { function_name } if functions::allowed(function_name) => None,
            AuthAction::Function { function_name } => Some(format!(
                "function {function_name}() (only functions that depend on nothing but their arguments are; time comes from table clock)"
            )),
            AuthAction::Attach { .. } => Some("ATTACH".to_owned()),
            AuthAction::Detach { .. } => Some("DETACH".to_owned()),
            AuthAction::Pragma { pragma_name, .. } => Some(format!("PRAGMA {pragma_name}")),
            AuthAction::Transaction { .. } | AuthAction::Savepoint { .. } => {
                Some("a transaction".to_owned())
            }
            _ => Some("writing: rules change the world, queries only read".to_owned()),
        };
        match denied {
            None => Authorization::Allow,
            Some(what) => {
                self.seen.lock().denied.get_or_insert(what);
                Authorization::Deny
            }
        }
    }

    /// Counts steps; true interrupts.
    fn spend(&self) -> bool {
        if !self.counting.load(Ordering::Relaxed) {
            return false;
        }
        let spent = self
            .steps
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(STEP_GRAIN)
            })
            .is_err();
        let patience = self.patience.load(Ordering::Relaxed);
        match self.running.lock().as_mut() {
            Some(running) if !spent => {
                running.ended = running.backstop.judge(patience);
                running.ended.is_some()
            }
            _ => spent,
        }
    }

    /// Counts from here on, until [`Lock::stop`]. Preparing counts too: what a statement says can be multiplied before it runs.
    fn start(&self, limits: Limits) {
        self.steps.store(limits.steps, Ordering::Relaxed);
        let patience = limits.steps.div_ceil(Limits::PACKAGE.steps);
        let patience = u32::try_from(patience).unwrap_or(u32::MAX);
        self.patience.store(patience, Ordering::Relaxed);
        *self.running.lock() = Some(Running {
            backstop: Backstop::new(),
            ended: None,
        });
        self.counting.store(true, Ordering::Relaxed);
    }

    fn stop(&self) {
        self.counting.store(false, Ordering::Relaxed);
    }

    /// Checks a statement of others and says what it gives and reads.
    pub(crate) fn describe(
        &self,
        connection: &Connection,
        sql: &str,
    ) -> Result<Described, SqlError> {
        let sql = trimmed(sql)?;
        *self.seen.lock() = Seen::default();
        self.locked.store(true, Ordering::Relaxed);
        self.start(Limits::PACKAGE);
        let prepared = connection.prepare(sql);
        self.stop();
        self.locked.store(false, Ordering::Relaxed);
        let statement = prepared.map_err(|error| match self.explain(error, Limits::PACKAGE) {
            // Some mistakes, like a missing table, have no place in the text.
            SqlError::Run(message) => SqlError::Compile {
                message,
                offset: None,
            },
            other => other,
        })?;
        check(&statement)?;
        let reads = std::mem::take(&mut self.seen.lock().reads);
        Ok(Described {
            columns: columns(&statement),
            reads: reads.into_iter().collect(),
            parameters: parameters(&statement),
        })
    }

    /// Runs a statement of others.
    pub(crate) fn rows(
        &self,
        connection: &Connection,
        sql: &str,
        parameter: &dyn Fn(&str) -> Option<Datum>,
        limits: Limits,
    ) -> Result<Rows, SqlError> {
        let sql = trimmed(sql)?;
        self.locked.store(true, Ordering::Relaxed);
        self.seen.lock().denied = None;
        self.start(limits);
        let prepared = connection.prepare_cached(sql);
        self.stop();
        self.locked.store(false, Ordering::Relaxed);
        let mut statement = prepared.map_err(|error| self.explain(error, limits))?;
        check(&statement)?;
        for index in 1..=statement.parameter_count() {
            let name = statement
                .parameter_name(index)
                .map(|name| name.trim_start_matches([':', '@', '$']).to_owned())
                .ok_or_else(|| {
                    SqlError::Run("parameters must be named, like :replicas".to_owned())
                })?;
            let value = parameter(&name)
                .ok_or_else(|| SqlError::Run(format!("parameter :{name} has no value")))?;
            statement
                .raw_bind_parameter(index, &value)
                .map_err(|error| self.explain(error, limits))?;
        }
        self.start(limits);
        let result = self.collect(&mut statement, limits);
        self.stop();
        result
    }

    fn collect(&self, statement: &mut Statement<'_>, limits: Limits) -> Result<Rows, SqlError> {
        let columns = columns(statement);
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().map_err(|error| self.explain(error, limits))? {
            if found.len() == limits.rows {
                return Err(SqlError::TooManyRows(limits.rows));
            }
            let mut values = Vec::with_capacity(columns.len());
            for (index, column) in columns.iter().enumerate() {
                let value = row
                    .get_ref(index)
                    .map_err(|error| self.explain(error, limits))?;
                let value = datum(value, &column.name, limits)?;
                bytes += size_of::<Datum>() + value.as_str().map_or(0, str::len);
                values.push(value);
            }
            if bytes > limits.bytes {
                return Err(SqlError::TooMuch(limits.bytes));
            }
            found.push(values);
        }
        Ok(Rows {
            columns,
            rows: found,
        })
    }

    /// Turns SQLite's error into ours.
    fn explain(&self, error: Error, limits: Limits) -> SqlError {
        let compiling = matches!(error, Error::SqlInputError { .. });
        let (code, message, offset) = match error {
            Error::SqlInputError {
                error, msg, offset, ..
            } => (error.code, msg, usize::try_from(offset).ok()),
            Error::SqliteFailure(error, message) => (
                error.code,
                message.unwrap_or_else(|| error.to_string()),
                None,
            ),
            Error::MultipleStatement => return SqlError::SeveralStatements,
            other => return SqlError::Run(other.to_string()),
        };
        if let Some(what) = self.seen.lock().denied.take() {
            return SqlError::Denied(what);
        }
        match code {
            // What SQLite's parser says, and no more.
            _ if message == "Recursion limit" => SqlError::Compile {
                message: "statement is nested too deep: make parts of it views".to_owned(),
                offset,
            },
            ErrorCode::OperationInterrupted => {
                let mut running = self.running.lock();
                let ended = running.as_mut().and_then(|running| running.ended.take());
                ended.unwrap_or(SqlError::Budget(limits.steps))
            }
            ErrorCode::OutOfMemory => SqlError::Run("query ran out of memory".to_owned()),
            ErrorCode::TooBig => SqlError::TooLong {
                column: "(an intermediate value)".to_owned(),
                limit: limits.value,
            },
            _ if compiling => SqlError::Compile { message, offset },
            _ => SqlError::Run(message),
        }
    }
}

/// Without trailing semicolons and space; SQLite itself refuses a second statement.
fn trimmed(sql: &str) -> Result<&str, SqlError> {
    let sql = sql.trim().trim_end_matches([';', ' ', '\n', '\t', '\r']);
    if sql.is_empty() {
        return Err(SqlError::Empty);
    }
    if sql.len() > LONGEST_STATEMENT {
        return Err(SqlError::LongStatement(LONGEST_STATEMENT));
    }
    Ok(sql)
}

fn check(statement: &Statement<'_>) -> Result<(), SqlError> {
    if !statement.readonly() || statement.column_count() == 0 || statement.is_explain() != 0 {
        return Err(SqlError::NotSelect);
    }
    Ok(())
}

fn columns(statement: &Statement<'_>) -> Vec<ResultColumn> {
    statement
        .columns()
        .map(|column| ResultColumn {
            name: column.name().to_owned(),
            kind: column.decl_type().and_then(kind_of),
        })
        .collect()
}

fn kind_of(declared: &str) -> Option<ColumnType> {
    Some(match declared {
        "TEXT" => ColumnType::String,
        "INTEGER" => ColumnType::Int,
        "REAL" => ColumnType::Float,
        "BOOLEAN" => ColumnType::Bool,
        "JSON_TEXT" => ColumnType::Json,
        _ => return None,
    })
}

fn parameters(statement: &Statement<'_>) -> Vec<String> {
    (1..=statement.parameter_count())
        .map(|index| {
            statement
                .parameter_name(index)
                .map(|name| name.trim_start_matches([':', '@', '$']).to_owned())
                .unwrap_or_default()
        })
        .collect()
}

fn datum(value: ValueRef<'_>, column: &str, limits: Limits) -> Result<Datum, SqlError> {
    Ok(match value {
        ValueRef::Null => Datum::Null,
        ValueRef::Integer(int) => Datum::Int(int),
        ValueRef::Real(float) => Datum::Float(float),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            if bytes.len() > limits.value {
                return Err(SqlError::TooLong {
                    column: column.to_owned(),
                    limit: limits.value,
                });
            }
            Datum::Text(String::from_utf8_lossy(bytes).into_owned())
        }
    })
}

impl rusqlite::ToSql for Datum {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::ToSqlOutput;
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(int) => ValueRef::Integer(*int),
            Self::Float(float) => ValueRef::Real(*float),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

impl rusqlite::types::FromSql for Datum {
    fn column_result(value: ValueRef<'_>) -> rusqlite::types::FromSqlResult<Self> {
        Ok(match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(int) => Self::Int(int),
            ValueRef::Real(float) => Self::Float(float),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                Self::Text(String::from_utf8_lossy(bytes).into_owned())
            }
        })
    }
}
