//! Services: cluster IPs and node ports. What is taken is read from the services themselves, so nothing can leak.

use std::{collections::BTreeSet, net::Ipv4Addr};

use rand::Rng;
use serde_json::{Map, Value, json};

use super::{Api, metadata};
use crate::{
    error::{ApiError, FieldError},
    registry::table,
};

/// 10.96.0.0/16, as kubeadm clusters have it.
const NETWORK: u32 = u32::from_be_bytes([10, 96, 0, 0]);
const NETWORK_SIZE: u32 = 1 << 16;
/// 10.96.0.1 is the API server and 10.96.0.10 the name server; both are only given out by name.
const FIRST_FREE: u32 = 16;
const NODE_PORTS: std::ops::Range<u16> = 30_000..32_768;

/// Fills in what is allocated, keeps what was; wrong wishes are errors.
pub(super) fn prepare(
    api: &Api,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<Vec<FieldError>, ApiError> {
    let mut errors = Vec::new();
    let uid = metadata::text(object, "uid").to_owned();
    let Some(spec) = metadata::child(object, "spec") else {
        return Ok(errors);
    };
    let external = spec.get("type").and_then(Value::as_str) == Some("ExternalName");
    let old_spec = old.map_or(&Value::Null, |old| &old["spec"]);
    if external {
        for field in [
            "clusterIP",
            "clusterIPs",
            "ipFamilies",
            "ipFamilyPolicy",
            "internalTrafficPolicy",
        ] {
            spec.remove(field);
        }
    } else {
        cluster_ip(api, spec, old_spec, &uid, &mut errors)?;
    }
    // What belongs to the old type goes with it, unless it was changed as well.
    let outside = matches!(
        spec.get("type").and_then(Value::as_str),
        Some("NodePort" | "LoadBalancer")
    ) || spec.get("externalIPs").is_some();
    if !outside && spec.get("externalTrafficPolicy") == old_spec.get("externalTrafficPolicy") {
        spec.remove("externalTrafficPolicy");
    }
    single_stack(spec, &mut errors);
    node_ports(api, spec, old_spec, &uid, &mut errors)?;
    if old.is_none() {
        object["status"] = json!({"loadBalancer": {}});
    }
    Ok(errors)
}

fn cluster_ip(
    api: &Api,
    spec: &mut Map<String, Value>,
    old: &Value,
    uid: &str,
    errors: &mut Vec<FieldError>,
) -> Result<(), ApiError> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut wanted = text(spec.get("clusterIP"));
    if wanted.is_empty() {
        wanted = text(spec.get("clusterIPs").and_then(|list| list.get(0)));
    }
    let held = text(old.get("clusterIP"));
    if wanted.is_empty() {
        wanted.clone_from(&held);
    }
    if !held.is_empty() && held != wanted {
        errors.push(FieldError {
            reason: "FieldValueInvalid",
            field: "spec.clusterIPs[0]".to_owned(),
            message: format!("Invalid value: [{wanted:?}]: may not change once set"),
        });
        return Ok(());
    }
    if wanted.is_empty() || (wanted != "None" && wanted != held) {
        let taken = others(api, uid, |spec| {
            spec["clusterIP"]
                .as_str()
                .and_then(|text| text.parse::<Ipv4Addr>().ok())
                .into_iter()
                .map(u32::from)
                .collect()
        });
        if wanted.is_empty() {
            let start = rand::rng().random_range(FIRST_FREE..NETWORK_SIZE - 1);
            let free = (0..NETWORK_SIZE)
                .map(|step| {
                    let span = NETWORK_SIZE - 1 - FIRST_FREE;
                    NETWORK + FIRST_FREE + (start - FIRST_FREE + step) % span
                })
                .find(|address| !taken.contains(address))
                .ok_or_else(|| {
                    ApiError::internal(
                        "no free cluster IP is left in 10.96.0.0/16; delete services",
                    )
                })?;
            wanted = Ipv4Addr::from(free).to_string();
        } else {
            let address = wanted.parse::<Ipv4Addr>().map(u32::from).ok();
            let problem = match address {
                Some(address) if address <= NETWORK || address >= NETWORK + NETWORK_SIZE - 1 => {
                    Some("the provided IP is not in the valid range 10.96.0.0/16")
                }
                Some(address) if taken.contains(&address) => {
                    Some("provided IP is already allocated")
                }
                Some(_) => None,
                None => Some("must be empty, 'None', or a valid IPv4 address"),
            };
            if let Some(problem) = problem {
                errors.push(FieldError {
                    reason: "FieldValueInvalid",
                    field: "spec.clusterIPs".to_owned(),
                    message: format!("Invalid value: [{wanted:?}]: {problem}"),
                });
                return Ok(());
            }
        }
    }
    spec.insert("clusterIPs".to_owned(), json!([wanted]));
    spec.insert("clusterIP".to_owned(), wanted.into());
    spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
    spec.entry("ipFamilyPolicy")
        .or_insert_with(|| "SingleStack".into());
    Ok(())
}

/// This cluster has IPv4 only, as many have.
fn single_stack(spec: &Map<String, Value>, errors: &mut Vec<FieldError>) {
    let mut wrong = |field: String, value: &str, why: &str| {
        errors.push(FieldError {
            reason: "FieldValueInvalid",
            field,
            message: format!("Invalid value: {value:?}: {why}"),
        });
    };
    let families = spec.get("ipFamilies").and_then(Value::as_array);
    for (index, family) in families.into_iter().flatten().enumerate() {
        if family == "IPv6" {
            let field = format!("spec.ipFamilies[{index}]");
            wrong(field, "IPv6", "not configured on this cluster");
        }
    }
    if spec.get("ipFamilyPolicy").and_then(Value::as_str) == Some("RequireDualStack") {
        let why = "this cluster is not configured for dual-stack services";
        wrong("spec.ipFamilyPolicy".to_owned(), "RequireDualStack", why);
    }
}

fn node_ports(
    api: &Api,
    spec: &mut Map<String, Value>,
    old: &Value,
    uid: &str,
    errors: &mut Vec<FieldError>,
) -> Result<(), ApiError> {
    let exposed = matches!(
        spec.get("type").and_then(Value::as_str),
        Some("NodePort" | "LoadBalancer")
    );
    let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) else {
        return Ok(());
    };
    let ports_of = |spec: &Value| -> Vec<u32> {
        spec["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|port| port["nodePort"].as_u64())
            .filter_map(|port| u32::try_from(port).ok())
            .collect()
    };
    if !exposed {
        // Numbers given out by the server go with the type; one the client made up is its mistake, which validation names.
        let given = ports_of(old);
        for port in ports.iter_mut().filter_map(Value::as_object_mut) {
            let number = port.get("nodePort").and_then(Value::as_u64);
            if number.is_some_and(|number| given.iter().any(|held| u64::from(*held) == number)) {
                port.remove("nodePort");
            }
        }
        return Ok(());
    }
    let mut taken = others(api, uid, ports_of);
    for (index, port) in ports.iter_mut().enumerate() {
        let wanted = port["nodePort"].as_u64().unwrap_or(0);
        if wanted != 0 {
            let number = u32::try_from(wanted).unwrap_or(u32::MAX);
            if !u16::try_from(wanted).is_ok_and(|wanted| NODE_PORTS.contains(&wanted)) {
                errors.push(FieldError {
                    reason: "FieldValueInvalid",
                    field: format!("spec.ports[{index}].nodePort"),
                    message: format!("Invalid value: {wanted}: provided port is not in the valid range. The range of valid ports is 30000-32767"),
                });
            } else if taken.contains(&number) {
                errors.push(FieldError {
                    reason: "FieldValueInvalid",
                    field: format!("spec.ports[{index}].nodePort"),
                    message: format!("Invalid value: {wanted}: provided port is already allocated"),
                });
            }
            taken.insert(number);
            continue;
        }
        let held = old["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|before| before["port"] == port["port"] && before["protocol"] == port["protocol"])
            .and_then(|before| before["nodePort"].as_u64());
        let number = match held {
            Some(held) => u32::try_from(held).unwrap_or(0),
            None => NODE_PORTS
                .map(u32::from)
                .find(|number| !taken.contains(number))
                .ok_or_else(|| {
                    ApiError::internal("no free node port is left in 30000-32767; delete services")
                })?,
        };
        taken.insert(number);
        if let Some(port) = port.as_object_mut() {
            port.insert("nodePort".to_owned(), number.into());
        }
    }
    Ok(())
}

/// Numbers that other services hold.
fn others(api: &Api, uid: &str, numbers: impl Fn(&Value) -> Vec<u32>) -> BTreeSet<u32> {
    api.0
        .store
        .list(&table("", "services"), None, None)
        .map(|snapshot| snapshot.items)
        .unwrap_or_default()
        .iter()
        .filter(|(_, service)| metadata::text(service, "uid") != uid)
        .flat_map(|(_, service)| numbers(&service["spec"]))
        .collect()
}
