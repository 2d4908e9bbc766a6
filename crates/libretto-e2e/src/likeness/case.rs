//! What a case file can say, and the cases that come out of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path as FilePath,
};

use serde::Deserialize;
use serde_json::Value;

use super::path::Path;
use crate::{Failure, Step};

/// One file: the cases of one subject.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseFile {
    /// What the cases have in common, in words.
    pub subject: String,
    /// Only a place for YAML anchors.
    #[serde(default)]
    #[expect(dead_code, reason = "anchors are resolved while the file is read")]
    define: Value,
    /// Sent once before the cases; the answers are not compared. `{shared}` is the same here and in all cases of the file.
    #[serde(default)]
    pub shared: Vec<CaseStep>,
    /// Paths deleted when all cases have run.
    #[serde(default)]
    pub cleanup: Vec<String>,
    pub cases: Vec<Case>,
}

/// A named list of steps.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    pub steps: Vec<CaseStep>,
    /// Each makes one more case: the body of the first step that has one, with these places set (`null` removes).
    #[serde(default)]
    variants: BTreeMap<String, BTreeMap<String, Value>>,
    #[serde(default)]
    pub known: Vec<Known>,
    /// Applied to every text of the answers after what is always normalised.
    #[serde(default)]
    pub replace: Vec<Replace>,
    /// Paths deleted after the case, for objects outside namespaces.
    #[serde(default)]
    pub cleanup: Vec<String>,
}

/// A difference that stays, and why.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Counted from 1; every step when absent.
    pub step: Option<usize>,
    /// The variant it concerns; every one when absent.
    variant: Option<String>,
    /// Where in the answer; the whole answer when absent.
    #[serde(default)]
    pub at: String,
    pub reason: String,
}

/// A regular expression and what to put instead.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replace {
    pub pattern: String,
    pub with: String,
}

/// One exchange; exactly one of `request`, `watch`, `wait` and `kubectl` says of which sort.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseStep {
    /// Method and path: `POST /api/v1/namespaces/{ns}/pods`.
    pub request: Option<String>,
    /// Path whose events are collected while the steps `during` are sent, until `events` have come or the server ends it.
    pub watch: Option<String>,
    /// Path that is read until the conditions of `until` hold.
    pub wait: Option<String>,
    /// Arguments of kubectl, separated as a shell does; the namespace is added.
    pub kubectl: Option<String>,

    /// Sent as JSON, or given to kubectl on standard input (a list: as several documents).
    pub body: Option<Value>,
    /// Sent as it is.
    pub text: Option<String>,
    /// Places to set in the body (`null` removes): for bodies that are YAML aliases.
    #[serde(default)]
    pub set: BTreeMap<String, Value>,
    /// Content type: `json` (usual), `json-patch`, `merge`, `strategic`, `apply`, or a media type.
    pub r#type: Option<String>,
    /// Accepted form: `json` (usual), `table`, `metadata`, `metadata-list`, or a media type.
    pub accept: Option<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,

    /// Values of the answer's body for later steps, by name: `{name}`.
    #[serde(default)]
    pub capture: BTreeMap<String, String>,
    /// Only these places of the body are compared.
    pub show: Option<Vec<String>>,

    /// `wait`: values by place; `code` is the status code.
    #[serde(default)]
    pub until: BTreeMap<String, Value>,
    /// `watch`: how many events end it; without it the server does.
    pub events: Option<usize>,
    /// `watch`: also those bookmarks that come by themselves.
    #[serde(default)]
    pub bookmarks: bool,
    #[serde(default)]
    pub during: Vec<CaseStep>,
}

impl CaseStep {
    /// How recordings and reports name the step.
    pub fn title(&self) -> String {
        let tagged =
            |tag: &str, text: &Option<String>| text.as_ref().map(|text| format!("{tag}{text}"));
        tagged("", &self.request)
            .or_else(|| tagged("watch ", &self.watch))
            .or_else(|| tagged("wait ", &self.wait))
            .or_else(|| tagged("kubectl ", &self.kubectl))
            .unwrap_or_default()
    }

    /// The body after `set`.
    pub fn content(&self) -> Step<Option<Value>> {
        if self.body.is_none() && self.set.is_empty() {
            return Ok(None);
        }
        let mut body = self.body.clone().unwrap_or_default();
        for (place, value) in &self.set {
            Path::parse(place)?.set(&mut body, value)?;
        }
        Ok(Some(body))
    }

    fn check(&self) -> Step {
        let sorts = [&self.request, &self.watch, &self.wait, &self.kubectl];
        if sorts.iter().filter(|sort| sort.is_some()).count() != 1 {
            return Err("a step has exactly one of request, watch, wait and kubectl".into());
        }
        if self.wait.is_some() && self.until.is_empty() {
            return Err(format!("{}: until is missing", self.title()).into());
        }
        self.during.iter().try_for_each(Self::check)
    }

    fn requests(&self) -> usize {
        1 + self.during.iter().map(Self::requests).sum::<usize>()
    }
}

impl Case {
    /// Steps, those within watches included.
    pub fn requests(&self) -> usize {
        self.steps.iter().map(CaseStep::requests).sum()
    }

    /// Whether anything in it happens in a namespace of its own.
    pub fn namespaced(&self) -> bool {
        fn mentions(step: &CaseStep) -> bool {
            step.kubectl.is_some()
                || step.title().contains("{ns}")
                || step.during.iter().any(mentions)
                || step
                    .content()
                    .ok()
                    .flatten()
                    .is_some_and(|body| body.to_string().contains("{ns}"))
        }
        self.steps.iter().any(mentions)
    }

    /// Whether nothing of it stays, so that it can share a namespace with others like it.
    pub fn dry(&self) -> bool {
        self.cleanup.is_empty()
            && self
                .steps
                .iter()
                .all(|step| step.request.is_some() && step.title().contains("dryRun=All"))
    }

    /// Whether its objects may outlive the case because of finalizers.
    pub fn finalizers(&self) -> bool {
        self.steps.iter().any(|step| {
            let content = step.content().ok().flatten().unwrap_or_default();
            content.to_string().contains("inalizers")
        })
    }

    /// The case and its variants, each a case.
    fn expand(self) -> Step<Vec<Self>> {
        if let Some(known) = self.known.iter().find(|known| {
            known
                .variant
                .as_ref()
                .is_some_and(|variant| !self.variants.contains_key(variant))
        }) {
            return Err(format!(
                "{}: a known difference names no variant: {known:?}",
                self.name
            )
            .into());
        }
        if self.variants.is_empty() {
            return Ok(vec![self]);
        }
        let mut cases = Vec::new();
        for (variant, changes) in &self.variants {
            let mut case = Self {
                name: format!("{}: {variant}", self.name),
                variants: BTreeMap::new(),
                known: self
                    .known
                    .iter()
                    .filter(|known| known.variant.as_ref().is_none_or(|own| own == variant))
                    .cloned()
                    .collect(),
                ..self.clone()
            };
            let step = case
                .steps
                .iter_mut()
                .find(|step| step.body.is_some())
                .ok_or_else(|| format!("{}: variants need a step with a body", self.name))?;
            let mut body = step.content()?.unwrap_or_default();
            for (place, value) in changes {
                Path::parse(place)?
                    .set(&mut body, value)
                    .map_err(|failure| Failure::from(format!("{}: {failure}", case.name)))?;
            }
            step.body = Some(body);
            step.set.clear();
            cases.push(case);
        }
        Ok(cases)
    }
}

/// Reads one file; its variants have become cases.
pub fn read(file: &FilePath) -> Step<CaseFile> {
    let read = || -> Step<CaseFile> {
        // As in YAML 1.2, `y` and `on` are texts.
        let options = serde_saphyr::options! { strict_booleans: true };
        let text = fs::read_to_string(file)?;
        let mut file: CaseFile = serde_saphyr::from_str_with_options(&text, options)?;
        file.cases = file
            .cases
            .into_iter()
            .map(Case::expand)
            .collect::<Step<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect();
        file.shared.iter().try_for_each(CaseStep::check)?;
        let mut names = BTreeSet::new();
        for case in &file.cases {
            case.steps
                .iter()
                .try_for_each(CaseStep::check)
                .map_err(|failure| Failure::from(format!("{}: {failure}", case.name)))?;
            if !names.insert(&case.name) {
                return Err(format!("two cases are named {:?}", case.name).into());
            }
        }
        Ok(file)
    };
    read().map_err(|failure| format!("{}: {failure}", file.display()).into())
}
