//! Our patches behind lines of JSON, for `scripts/differential.py`. The first line is a CustomResourceDefinition; every other line asks
//! for one operation and gets one line back.

use std::io::BufRead as _;

use libretto_devcluster::{
    crd,
    patch::{self, ApplyError, Manager},
    schema::TypeSchema,
};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut lines = std::io::stdin().lock().lines();
    let first = lines.next().ok_or("a definition is expected")??;
    let custom = crd::parse(&serde_json::from_str(&first)?)
        .map_err(|errors| format!("the definition is invalid: {errors:?}"))?;
    let custom = TypeSchema::Custom(custom.versions[0].schema.clone());
    for line in lines {
        let answer = answer(&custom, &serde_json::from_str(&line?)?)?;
        // The answers are this program's output.
        #[allow(clippy::print_stdout)]
        {
            println!("{answer}");
        }
    }
    Ok(())
}

fn answer(custom: &TypeSchema, question: &Value) -> Result<Value, String> {
    let text = |key: &str| question[key].as_str().unwrap_or_default().to_owned();
    if question["op"] == "strategic" {
        let group = text("group");
        let schema = TypeSchema::built_in(&group, "v1", &text("kind"))
            .ok_or_else(|| format!("no kind {}", question["kind"]))?;
        return Ok(
            match patch::strategic(&schema, &question["live"], &question["patch"]) {
                Ok(object) => json!({ "object": object }),
                Err(error) => json!({"error": error.0}),
            },
        );
    }
    let manager = Manager {
        name: text("manager"),
        subresource: String::new(),
        api_version: text("apiVersion"),
        time: "2026-01-01T00:00:00Z".to_owned(),
    };
    let live = Some(&question["live"]).filter(|live| !live.is_null());
    let config = &question["config"];
    if question["op"] == "update" {
        let object = patch::track_update(custom, live, config.clone(), &manager);
        return Ok(json!({ "object": object }));
    }
    let force = question["force"] == true;
    Ok(match patch::apply(custom, live, config, &manager, force) {
        Ok(object) => json!({ "object": object }),
        Err(ApplyError::Conflicts(conflicts)) => {
            let shown = conflicts.iter().map(|conflict| {
                let kind = if conflict.described.contains(" using ") {
                    "Update"
                } else {
                    "Apply"
                };
                format!("{}|{kind} {}", conflict.manager, conflict.field)
            });
            let mut shown: Vec<String> = shown.collect();
            shown.sort();
            json!({ "conflicts": shown })
        }
        Err(ApplyError::Malformed(message)) => json!({ "error": message }),
    })
}
