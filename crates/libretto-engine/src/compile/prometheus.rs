//! `with:` of `probe: prometheus`: an endpoint to scrape, or a server and a query.

use super::{Check, PrometheusTemplate, sense};
use crate::{
    template::Names,
    yaml::{At, Data, Node},
};

pub(super) fn prometheus(
    check: &mut Check<'_>,
    with: &Node,
    place: &str,
    names: &Names,
    timeout_ms: i64,
) -> Option<PrometheusTemplate> {
    check.only(with, place, &["url", "headers", "metrics", "query"]);
    let request = Node {
        at: with.at,
        data: Data::Map(
            with.entries()
                .iter()
                .filter(|(key, _)| matches!(key.text.as_str(), "url" | "headers"))
                .cloned()
                .collect(),
        ),
    };
    let page = sense::http(check, &request, place, names, Some(timeout_ms))?;
    let only: Vec<(String, At)> = match with.get("metrics") {
        Some(node) => check.texts(node, &format!("{place}.metrics")),
        None => Vec::new(),
    };
    let query = with.get("query").map(|node| check.tree(node, names));
    if let (Some(_), Some((_, at))) = (&query, only.first()) {
        check.wrong_hint(
            *at,
            format!("{place} has both `query` and `metrics`"),
            "`metrics` chooses from a scraped page; a query chooses itself",
        );
    }
    Some(PrometheusTemplate {
        page,
        only: only.into_iter().map(|(name, _)| name).collect(),
        query,
    })
}
