//! The cluster's name server: `cluster.local` from the directory of Services, nothing else.
//!
//! There is no way out of the pods' network, so names of other domains are refused at once instead of timing out. Answers live five
//! seconds, as with CoreDNS: long enough for a burst, short enough for a failover.

use std::{net::Ipv4Addr, sync::Arc};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, CNAME, SOA, SRV},
    },
};
use parking_lot::RwLock;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
};

use super::directory::{Directory, Service};

const TTL: u32 = 5;
const ZONE: [&str; 2] = ["cluster", "local"];
/// Largest UDP answer without EDNS; larger ones are truncated and asked again over TCP.
const PLAIN_UDP: u16 = 512;
/// Largest UDP answer at all: fits an Ethernet frame.
const LARGEST_UDP: u16 = 1232;

/// Serves both protocols until aborted.
pub(crate) async fn serve(udp: UdpSocket, tcp: TcpListener, directory: Arc<RwLock<Directory>>) {
    let over_udp = async {
        let mut buffer = vec![0; 4096];
        loop {
            let Ok((count, client)) = udp.recv_from(&mut buffer).await else {
                continue;
            };
            let answer = answer(&buffer[..count], &directory.read(), true);
            if let Some(answer) = answer {
                // The client asks again when this is lost.
                let _ = udp.send_to(&answer, client).await;
            }
        }
    };
    let over_tcp = async {
        loop {
            if let Ok((stream, _)) = tcp.accept().await {
                let directory = directory.clone();
                // A client that opens a connection and says nothing is cut off.
                let limit = std::time::Duration::from_secs(10);
                tokio::spawn(tokio::time::timeout(limit, converse(stream, directory)));
            }
        }
    };
    tokio::join!(over_udp, over_tcp);
}

async fn converse(mut stream: TcpStream, directory: Arc<RwLock<Directory>>) -> std::io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut query = vec![0; length.into()];
        stream.read_exact(&mut query).await?;
        let answer = answer(&query, &directory.read(), false);
        let Some(answer) = answer else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
        stream.write_u16(length).await?;
        stream.write_all(&answer).await?;
    }
}

/// `None` for what is not a query.
fn answer(query: &[u8], directory: &Directory, udp: bool) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.add_queries(query.queries.iter().cloned());
    match query.queries.first() {
        Some(question) if query.metadata.op_code == OpCode::Query => {
            respond(question, directory, &mut response);
        }
        _ => response.metadata.response_code = ResponseCode::NotImp,
    }
    let bytes = response.to_vec().ok()?;
    let limit = if query.edns.is_some() {
        query.max_payload().clamp(PLAIN_UDP, LARGEST_UDP)
    } else {
        PLAIN_UDP
    };
    if udp && bytes.len() > usize::from(limit) {
        return response.truncate().to_vec().ok();
    }
    Some(bytes)
}

/// What a name is.
enum Found {
    /// Exists; these are all its records.
    Records(Vec<RData>, Vec<Record>),
    Missing,
    /// Not ours to say.
    Foreign,
}

fn respond(question: &Query, directory: &Directory, response: &mut Message) {
    let name = question.name();
    match find(name, directory) {
        Found::Foreign => response.metadata.response_code = ResponseCode::Refused,
        Found::Missing => {
            response.metadata.authoritative = true;
            response.metadata.response_code = ResponseCode::NXDomain;
            response.add_authorities(authority());
        }
        Found::Records(records, additional) => {
            response.metadata.authoritative = true;
            let wanted = question.query_type();
            let matching = records
                .into_iter()
                .filter(|data| {
                    wanted == RecordType::ANY
                        || data.record_type() == wanted
                        || data.record_type() == RecordType::CNAME
                })
                .map(|data| Record::from_rdata(name.clone(), TTL, data))
                .collect::<Vec<_>>();
            if matching.is_empty() {
                response.add_authorities(authority());
            } else if wanted == RecordType::SRV {
                response.add_additionals(additional);
            }
            response.add_answers(matching);
        }
    }
}

/// Lets resolvers remember for five seconds that something is not there.
fn authority() -> Option<Record> {
    let zone = Name::from_ascii("cluster.local.").ok()?;
    let server = Name::from_ascii("ns.dns.cluster.local.").ok()?;
    let mailbox = Name::from_ascii("hostmaster.cluster.local.").ok()?;
    let soa = SOA::new(server, mailbox, 1, 7200, 1800, 86400, TTL);
    Some(Record::from_rdata(zone, TTL, RData::SOA(soa)))
}

fn find(name: &Name, directory: &Directory) -> Found {
    let labels = name
        .iter()
        .map(|label| String::from_utf8_lossy(label).to_lowercase())
        .collect::<Vec<_>>();
    let labels = labels.iter().map(String::as_str).collect::<Vec<_>>();
    if let [.., "in-addr", "arpa"] = labels.as_slice() {
        return Found::Missing;
    }
    let Some(inner) = labels.strip_suffix(&ZONE[..]) else {
        return Found::Foreign;
    };
    match inner {
        // Names on the way to others exist without records of their own.
        [] | ["svc" | "pod"] => exists(),
        [namespace, "svc"] if directory.has_namespace(namespace) => exists(),
        [address, _namespace, "pod"] => match address.replace('-', ".").parse::<Ipv4Addr>() {
            Ok(address) => records(vec![address]),
            Err(_) => Found::Missing,
        },
        [rest @ .., service, namespace, "svc"] => match directory.service(namespace, service) {
            Some(found) => in_service(rest, found, (namespace, service), directory),
            None => Found::Missing,
        },
        _ => Found::Missing,
    }
}

fn exists() -> Found {
    Found::Records(Vec::new(), Vec::new())
}

fn records(addresses: Vec<Ipv4Addr>) -> Found {
    Found::Records(
        addresses
            .into_iter()
            .map(|address| RData::A(A(address)))
            .collect(),
        Vec::new(),
    )
}

/// `rest` are the labels before the service's name.
fn in_service(
    rest: &[&str],
    service: &Service,
    name: (&str, &str),
    directory: &Directory,
) -> Found {
    if let Some(target) = &service.external_name {
        return match Name::from_ascii(format!("{}.", target.trim_end_matches('.'))) {
            Ok(target) if rest.is_empty() => {
                Found::Records(vec![RData::CNAME(CNAME(target))], Vec::new())
            }
            _ => Found::Missing,
        };
    }
    let key = (name.0.to_owned(), name.1.to_owned());
    let mut endpoints = directory.endpoints(&key);
    endpoints.retain(|endpoint| endpoint.ready || service.publish_not_ready);
    let domain = format!("{}.{}.svc.cluster.local.", name.1, name.0);
    match rest {
        [] => match service.cluster_ip {
            Some(address) => records(vec![address]),
            None => {
                let mut addresses = endpoints
                    .iter()
                    .map(|endpoint| endpoint.address)
                    .collect::<Vec<_>>();
                addresses.dedup();
                // A headless service without endpoints does not exist for CoreDNS either.
                if addresses.is_empty() {
                    Found::Missing
                } else {
                    records(addresses)
                }
            }
        },
        [port, protocol] if port.starts_with('_') && protocol.starts_with('_') => {
            let (port, protocol) = (&port[1..], protocol[1..].to_uppercase());
            let mut answers = Vec::new();
            let mut additional = Vec::new();
            let mut add = |target: &str, number: u16, address: Ipv4Addr| {
                if let Ok(target) = Name::from_ascii(target) {
                    additional.push(Record::from_rdata(
                        target.clone(),
                        TTL,
                        RData::A(A(address)),
                    ));
                    answers.push(RData::SRV(SRV::new(0, 100, number, target)));
                }
            };
            match service.cluster_ip {
                Some(address) => {
                    for found in service
                        .ports
                        .iter()
                        .filter(|found| found.name == port && found.protocol == protocol)
                    {
                        add(&domain, found.port, address);
                    }
                }
                None => {
                    for endpoint in &endpoints {
                        if let Some(number) =
                            endpoint.ports.get(&(port.to_owned(), protocol.clone()))
                        {
                            add(
                                &format!("{}.{domain}", endpoint.label()),
                                *number,
                                endpoint.address,
                            );
                        }
                    }
                }
            }
            if answers.is_empty() {
                Found::Missing
            } else {
                Found::Records(answers, additional)
            }
        }
        [label] => {
            let mut addresses = endpoints
                .iter()
                .filter(|endpoint| {
                    endpoint.label() == *label
                        || endpoint.address.to_string().replace('.', "-") == *label
                })
                .map(|endpoint| endpoint.address)
                .collect::<Vec<_>>();
            addresses.dedup();
            if addresses.is_empty() {
                Found::Missing
            } else {
                records(addresses)
            }
        }
        _ => Found::Missing,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::node::directory::tests::sample;

    fn ask(name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let bytes = answer(&query.to_vec().unwrap(), &sample(), true).unwrap();
        let response = Message::from_vec(&bytes).unwrap();
        assert_eq!(response.metadata.id, query.metadata.id);
        (
            response.metadata.response_code,
            response
                .answers
                .iter()
                .map(|record| record.data.to_string())
                .collect(),
        )
    }

    #[test]
    fn names() {
        use RecordType::{A, AAAA, SRV};
        use ResponseCode::{NXDomain, NoError, Refused};
        for (name, kind, code, expected) in [
            ("vip.ns.svc.cluster.local.", A, NoError, &["10.96.0.7"][..]),
            ("VIP.ns.svc.Cluster.Local.", A, NoError, &["10.96.0.7"]),
            ("vip.ns.svc.cluster.local.", AAAA, NoError, &[]),
            (
                "headless.ns.svc.cluster.local.",
                A,
                NoError,
                &["10.66.0.101"],
            ),
            (
                "all.ns.svc.cluster.local.",
                A,
                NoError,
                &["10.66.0.101", "10.66.0.102", "10.66.0.103"],
            ),
            (
                "r-0.headless.ns.svc.cluster.local.",
                A,
                NoError,
                &["10.66.0.101"],
            ),
            ("r-1.headless.ns.svc.cluster.local.", A, NXDomain, &[]),
            (
                "r-1.all.ns.svc.cluster.local.",
                A,
                NoError,
                &["10.66.0.102"],
            ),
            (
                "10-66-0-103.all.ns.svc.cluster.local.",
                A,
                NoError,
                &["10.66.0.103"],
            ),
            (
                "_redis._tcp.vip.ns.svc.cluster.local.",
                SRV,
                NoError,
                &["0 100 6379 vip.ns.svc.cluster.local."],
            ),
            (
                "_redis._tcp.headless.ns.svc.cluster.local.",
                SRV,
                NoError,
                &["0 100 6380 r-0.headless.ns.svc.cluster.local."],
            ),
            ("_none._tcp.vip.ns.svc.cluster.local.", SRV, NXDomain, &[]),
            (
                "10-66-0-9.ns.pod.cluster.local.",
                A,
                NoError,
                &["10.66.0.9"],
            ),
            (
                "outside.ns.svc.cluster.local.",
                A,
                NoError,
                &["example.org."],
            ),
            (
                "kubernetes.default.svc.cluster.local.",
                A,
                NoError,
                &["10.96.0.1"],
            ),
            ("ns.svc.cluster.local.", A, NoError, &[]),
            ("nothing.ns.svc.cluster.local.", A, NXDomain, &[]),
            ("example.org.svc.cluster.local.", A, NXDomain, &[]),
            ("example.org.", A, Refused, &[]),
        ] {
            let (got, answers) = ask(name, kind);
            assert_eq!(
                (got, answers.iter().map(String::as_str).collect::<Vec<_>>()),
                (code, expected.to_vec()),
                "{name} {kind}"
            );
        }
    }

    #[test]
    fn what_is_no_query_gets_no_answer() {
        assert!(answer(b"nonsense", &sample(), true).is_none());
        let response = Message::response(7, OpCode::Query).to_vec().unwrap();
        assert!(answer(&response, &sample(), true).is_none());
    }
}
