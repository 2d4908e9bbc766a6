//! What can go wrong in the mirror and in a package's SQL.

/// The mirror refused a declaration or a call.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    #[error("package {0} is not declared in the mirror")]
    UnknownPackage(String),
    #[error("package {package} has no table {table}")]
    UnknownTable { package: String, table: String },
    /// Every stored object has a uid; one without was not read from an API server.
    #[error("{gvk} {name} has no metadata.uid")]
    NoUid { gvk: String, name: String },
    #[error("query failed: {0}")]
    Query(#[from] SqlError),
    /// The database itself failed; in memory that means out of memory or a defect.
    #[error("mirror database failed: {0}")]
    Database(#[from] rusqlite::Error),
}

/// A package's or a user's SQL failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SqlError {
    /// It does not compile.
    #[error("{message}")]
    Compile {
        message: String,
        /// Byte offset into the SQL, when SQLite knows it.
        offset: Option<usize>,
    },
    #[error("statement is not a single SELECT")]
    NotSelect,
    #[error(
        "statement is longer than {0} bytes: values it compares with belong into a table of `sense`"
    )]
    LongStatement(usize),
    #[error("statement is empty")]
    Empty,
    #[error("more than one statement: keep only the first")]
    SeveralStatements,
    /// It asks for something a package may not do.
    #[error("not allowed: {0}")]
    Denied(String),
    #[error("query took more than {0} steps: select fewer rows, or join on an indexed column")]
    Budget(u64),
    /// Its steps were few and long. One message for both bounds: which of them comes first is chance, and a status must not be.
    #[error(
        "query worked on long values for more than {ms} ms, or held more than {mib} MiB: take the part that is needed first"
    )]
    Long { ms: u64, mib: usize },
    #[error("query returned more than {0} bytes: select fewer rows or shorter values")]
    TooMuch(usize),
    #[error("query returned more than {0} rows: add WHERE or LIMIT")]
    TooManyRows(usize),
    #[error("a value of column `{column}` is longer than {limit} bytes")]
    TooLong { column: String, limit: usize },
    #[error("{0}")]
    Run(String),
}
