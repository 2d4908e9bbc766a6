//! Bounds on a package's SQL.

/// How much one statement may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Virtual machine instructions of SQLite. The rules of a Redis instance take some ten thousand; five million is about
    /// 50 ms on a laptop, so that one package of bad queries delays its neighbours by blinks, not by seconds.
    pub steps: u64,
    /// Rows of a result. A rule acts on each row: ten thousand effects of one instance are a mistake, not a plan.
    pub rows: usize,
    /// Bytes of a result. What one instance's rules could act upon is far less; without the bound many rows of long values fill a memory.
    pub bytes: usize,
    /// Bytes of one text value. The API server refuses objects above 1.5 MiB; a value that cannot fit in one is no use.
    pub value: usize,
}

impl Limits {
    /// For a package's views and rules.
    pub const PACKAGE: Self = Self {
        steps: 5_000_000,
        rows: 10_000,
        bytes: 16 << 20,
        value: 1_500_000,
    };

    /// For a person's ad-hoc query over the whole mirror: a full scan of a large cluster is legitimate, a screen shows less.
    pub const QUERY: Self = Self {
        steps: 200_000_000,
        rows: 5_000,
        bytes: 64 << 20,
        value: 1_500_000,
    };
}

/// How often the step counter looks: a hundred steps over the longest values are some milliseconds, over short ones a microsecond, of
/// which looking takes a fiftieth.
pub(crate) const STEP_GRAIN: u64 = 100;
