//! What Redis and Sentinel do, as far as an operator can see: roles, links, offsets, settings, votes.
//!
//! A container that listens on 26379 is a Sentinel, one on 6379 a Redis. How they start is read off the texts mounted into
//! their pods: a `slaveof` or `replicaof` there means a node starts as a replica, `get-master-addr-by-name` that it asks the
//! Sentinels first whom to follow, `priority 0` that it cannot be elected before it followed somebody, and a preStop hook that
//! a master hands over before it goes. Commands the model does not know are errors that say so.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{Hash, Hasher},
};

use libretto_api::intent::{Failure, FailureKind, Millis, RedisCall};
use libretto_mirror::digest;
use serde_json::{Map, Value, json};

use super::world::{World, text};

/// Every Redis and Sentinel process, by pod uid.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) nodes: BTreeMap<String, Node>,
    pub(crate) sentinels: BTreeMap<String, Sentinel>,
    /// What outlives a pod: keys of nodes with a claim, by pod name.
    disks: BTreeMap<String, (i64, i64, String)>,
    /// Pods nobody can reach, by name.
    pub(crate) partitioned: BTreeSet<String>,
    ids: u64,
}

/// A Redis process.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    name: String,
    ip: String,
    /// Address followed; `None` for a master.
    master: Option<(String, u16)>,
    /// Since when the link to the master has been up.
    link_since: Option<Millis>,
    asked_at: Millis,
    offset: i64,
    keys: i64,
    replid: String,
    config: BTreeMap<String, String>,
    passwords: BTreeSet<String>,
    version: String,
    /// Becomes electable with its first link.
    priority_waits: bool,
    durable: bool,
    /// Its readiness probe wants the link to be up.
    looks_at_link: bool,
}

/// What a replica takes from the node it follows.
struct Source {
    name: String,
    ip: String,
    passwords: BTreeSet<String>,
    /// It is a master, or follows one itself.
    linked: bool,
    offset: i64,
    keys: i64,
    replid: String,
}

impl From<&Node> for Source {
    fn from(node: &Node) -> Self {
        Self {
            name: node.name.clone(),
            ip: node.ip.clone(),
            passwords: node.passwords.clone(),
            linked: node.master.is_none() || node.link_since.is_some(),
            offset: node.offset,
            keys: node.keys,
            replid: node.replid.clone(),
        }
    }
}

/// A Sentinel process.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Sentinel {
    name: String,
    ip: String,
    id: String,
    masters: BTreeMap<String, Monitor>,
}

#[derive(Debug, Clone, Hash)]
struct Monitor {
    ip: String,
    port: u16,
    quorum: usize,
    epoch: i64,
    settings: BTreeMap<String, String>,
    replicas: BTreeSet<String>,
    others: BTreeSet<String>,
    /// Since when the master does not answer.
    down_since: Option<Millis>,
    failover_since: Option<Millis>,
}

/// Whether a reply begins with these words, as the real thing compares them.
fn begins(reply: &Value, expect: &[String]) -> bool {
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match reply {
        Value::Array(items) => {
            items.len() >= expect.len()
                && items
                    .iter()
                    .zip(expect)
                    .all(|(item, expected)| word(item) == *expected)
        }
        other => expect.len() == 1 && word(other) == expect[0],
    }
}

/// When Sentinels set a node right that follows the wrong one.
const CORRECT_MS: Millis = 10_000;

/// How long a link takes to be up, and a failover from vote to promotion (measured: 1.2 s after down-after).
const LINK_MS: Millis = 1_000;
const FAILOVER_MS: Millis = 1_000;

/// Settings whose defaults packages compare; others are known once something sets them.
const DEFAULTS: &[(&str, &str)] = &[
    ("appendonly", "no"),
    ("save", "3600 1 300 100 60 10000"),
    ("maxmemory", "0"),
    ("maxmemory-policy", "noeviction"),
    ("timeout", "0"),
    ("tcp-keepalive", "300"),
    ("hz", "10"),
    ("databases", "16"),
    ("maxclients", "10000"),
    ("repl-backlog-size", "1048576"),
    ("repl-diskless-sync", "yes"),
    ("repl-diskless-sync-delay", "5"),
    ("slave-priority", "100"),
    ("replica-priority", "100"),
    ("min-slaves-to-write", "0"),
    ("min-replicas-to-write", "0"),
    ("min-slaves-max-lag", "10"),
    ("min-replicas-max-lag", "10"),
    ("slowlog-log-slower-than", "10000"),
    ("auto-aof-rewrite-min-size", "67108864"),
    ("auto-aof-rewrite-percentage", "100"),
    ("aof-load-truncated", "yes"),
    ("stop-writes-on-bgsave-error", "yes"),
    ("rdb-del-sync-files", "no"),
    ("notify-keyspace-events", ""),
    (
        "client-output-buffer-limit",
        "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
    ),
    ("requirepass", ""),
    ("masterauth", ""),
    ("loglevel", "notice"),
    ("slowlog-max-len", "128"),
    ("lazyfree-lazy-eviction", "no"),
    ("activedefrag", "no"),
    ("appendfsync", "everysec"),
    ("latency-monitor-threshold", "0"),
    ("proto-max-bulk-len", "536870912"),
    ("repl-timeout", "60"),
    ("lua-time-limit", "5000"),
    ("list-max-ziplist-size", "-2"),
    ("maxmemory-samples", "5"),
];

/// Two spellings of one setting.
fn twin(name: &str) -> Option<String> {
    if name.contains("slave") {
        Some(name.replace("slave", "replica"))
    } else if name.contains("replica") {
        Some(name.replace("replica", "slave"))
    } else {
        None
    }
}

impl Model {
    /// Feeds everything to the hash that what comes can follow from. Times that only matter until something is due count no further.
    pub(crate) fn hash_future(&self, now: Millis, state: &mut impl Hasher) {
        let Self {
            nodes,
            sentinels,
            disks,
            partitioned,
            ids,
        } = self;
        (sentinels, disks, partitioned, ids, nodes.len()).hash(state);
        for (uid, node) in nodes {
            let Node {
                name,
                ip,
                master,
                link_since,
                asked_at,
                offset,
                keys,
                replid,
                config,
                passwords,
                version,
                priority_waits,
                durable,
                looks_at_link,
            } = node;
            (uid, name, ip, master, offset, keys, replid, config).hash(state);
            (passwords, version, priority_waits, durable, looks_at_link).hash(state);
            // Only whether it is up is ever asked.
            link_since.is_some().hash(state);
            // Only compared with LINK_MS and CORRECT_MS ago.
            (*asked_at).max(now - CORRECT_MS).hash(state);
        }
    }

    /// Starts what runs and is not known, forgets what runs no more, and lets time pass.
    pub(crate) fn step(&mut self, world: &World) {
        let now = world.now;
        let gone: Vec<String> = self
            .nodes
            .keys()
            .chain(self.sentinels.keys())
            .filter(|uid| !world.running.contains(*uid))
            .cloned()
            .collect();
        for uid in gone {
            if let Some(node) = self.nodes.remove(&uid)
                && node.durable
            {
                self.disks
                    .insert(node.name, (node.keys, node.offset, node.replid));
            }
            self.sentinels.remove(&uid);
        }
        let pods: Vec<&Value> = world
            .of_kind("Pod")
            .filter(|pod| world.running.contains(text(pod, "/metadata/uid")))
            .collect();
        // Sentinels first: nodes ask them.
        for pod in &pods {
            if !self.sentinels.contains_key(text(pod, "/metadata/uid")) && listens(pod, 26379) {
                self.start_sentinel(world, pod);
            }
        }
        for pod in &pods {
            let uid = text(pod, "/metadata/uid");
            if !self.nodes.contains_key(uid) && listens(pod, 6379) {
                self.start_node(world, pod);
            }
            let leaving = pod.pointer("/metadata/deletionTimestamp").is_some();
            if leaving && has_pre_stop(pod) {
                self.hand_over(uid, now);
            }
        }
        self.replicate(now);
        self.watch(now);
    }

    fn start_node(&mut self, world: &World, pod: &Value) {
        let uid = text(pod, "/metadata/uid").to_owned();
        let name = text(pod, "/metadata/name").to_owned();
        let texts = mounted(world, pod);
        let all = texts.values().cloned().collect::<Vec<_>>().join("\n") + &pod["spec"].to_string();
        let mut config: BTreeMap<String, String> = DEFAULTS
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        for (file, content) in &texts {
            if file.ends_with(".conf") {
                read_config(content, &mut config);
            }
        }
        let waits = all.contains("slave-priority 0") || all.contains("replica-priority 0");
        if waits {
            set(&mut config, "slave-priority", "0");
        }
        let replica = all.contains("slaveof ") || all.contains("replicaof ");
        let named = if all.contains("get-master-addr-by-name") {
            self.majority()
                .filter(|ip| *ip != text(pod, "/status/podIP"))
                .filter(|ip| self.node_at(ip).is_some_and(|node| node.master.is_none()))
        } else {
            None
        };
        let durable = pod
            .pointer("/spec/volumes")
            .and_then(Value::as_array)
            .is_some_and(|volumes| {
                volumes
                    .iter()
                    .any(|volume| volume.get("persistentVolumeClaim").is_some())
            })
            || world
                .of_kind("PersistentVolumeClaim")
                .any(|claim| text(claim, "/metadata/name").ends_with(&format!("-{name}")));
        self.ids += 1;
        let fresh = (0, 0, digest(format!("{uid}/{}", self.ids).as_bytes()));
        let (keys, offset, replid) = if durable {
            self.disks.get(&name).cloned().unwrap_or(fresh)
        } else {
            fresh
        };
        let password = password_of(world, pod);
        if let Some(password) = &password {
            config.insert("requirepass".to_owned(), password.clone());
            config.insert("masterauth".to_owned(), password.clone());
        }
        self.nodes.insert(
            uid,
            Node {
                name,
                ip: text(pod, "/status/podIP").to_owned(),
                master: replica.then(|| (named.unwrap_or_else(|| "127.0.0.1".to_owned()), 6379)),
                link_since: None,
                asked_at: world.now,
                offset,
                keys,
                replid,
                config,
                passwords: password.into_iter().collect(),
                version: version_of(pod),
                priority_waits: waits,
                durable,
                looks_at_link: texts
                    .values()
                    .any(|content| content.contains("master_link_status:up")),
            },
        );
    }

    fn start_sentinel(&mut self, world: &World, pod: &Value) {
        let name = text(pod, "/metadata/name").to_owned();
        let texts = mounted(world, pod);
        let all = texts.values().cloned().collect::<Vec<_>>().join("\n");
        let mut masters = BTreeMap::new();
        if all.contains("get-master-addr-by-name")
            && let Some(ip) = self.majority()
        {
            let known = self
                .sentinels
                .values()
                .flat_map(|sentinel| sentinel.masters.iter())
                .find(|(_, monitor)| monitor.ip == ip)
                .map(|(name, monitor)| (name.clone(), monitor.clone()));
            if let Some((name, monitor)) = known {
                masters.insert(
                    name,
                    Monitor {
                        replicas: BTreeSet::new(),
                        others: BTreeSet::new(),
                        down_since: None,
                        failover_since: None,
                        epoch: 0,
                        ..monitor
                    },
                );
            }
        }
        self.sentinels.insert(
            text(pod, "/metadata/uid").to_owned(),
            Sentinel {
                // Computed from the name: a Sentinel that lost its disk is the same one to the others.
                id: digest(name.as_bytes()),
                ip: text(pod, "/status/podIP").to_owned(),
                name,
                masters,
            },
        );
    }

    /// Address that more than half of all Sentinels name.
    fn majority(&self) -> Option<String> {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for monitor in self
            .sentinels
            .values()
            .filter(|sentinel| !self.partitioned.contains(&sentinel.name))
            .flat_map(|sentinel| sentinel.masters.values())
        {
            *votes.entry(&monitor.ip).or_default() += 1;
        }
        votes
            .into_iter()
            .find(|(_, count)| *count * 2 > self.sentinels.len())
            .map(|(ip, _)| ip.to_owned())
    }

    /// A node that can be reached at an address.
    fn node_at(&self, ip: &str) -> Option<&Node> {
        self.nodes
            .values()
            .find(|node| node.ip == ip && !self.partitioned.contains(&node.name))
    }

    fn replicate(&mut self, now: Millis) {
        // All follow what was there before the step.
        let before: Vec<Source> = self.nodes.values().map(Source::from).collect();
        for node in self.nodes.values_mut() {
            let Some((ip, _)) = &node.master else {
                continue;
            };
            let source = before.iter().find(|other| other.ip == *ip);
            let reachable = source.is_some_and(|source| {
                !self.partitioned.contains(&source.name) && !self.partitioned.contains(&node.name)
            });
            let login = source.is_some_and(|source| {
                source.passwords.is_empty()
                    || node
                        .config
                        .get("masterauth")
                        .is_some_and(|password| source.passwords.contains(password))
            });
            if !(reachable && login) {
                node.link_since = None;
                continue;
            }
            if now >= node.asked_at + LINK_MS
                && let Some(source) = source
            {
                // A replica of a replica is up when its source is linked itself.
                if source.linked {
                    node.link_since.get_or_insert(now);
                    (node.offset, node.keys) = (source.offset, source.keys);
                    node.replid.clone_from(&source.replid);
                    if node.priority_waits {
                        node.priority_waits = false;
                        set(&mut node.config, "slave-priority", "1");
                    }
                }
            }
        }
    }

    /// Nodes that follow an address with their link up.
    fn followers(&self, ip: &str) -> Vec<&Node> {
        self.nodes
            .values()
            .filter(|node| {
                node.link_since.is_some()
                    && node.master.as_ref().is_some_and(|(master, _)| master == ip)
            })
            .collect()
    }

    /// What Sentinels learn and decide.
    fn watch(&mut self, now: Millis) {
        let uids: Vec<String> = self.sentinels.keys().cloned().collect();
        // What one learns says nothing to the others before the next step.
        let mut news = Vec::new();
        for (uid, sentinel) in &self.sentinels {
            if self.partitioned.contains(&sentinel.name) {
                continue;
            }
            for (name, monitor) in &sentinel.masters {
                let alive = self.node_at(&monitor.ip).is_some();
                let (mut replicas, mut others) = (Vec::new(), Vec::new());
                if alive {
                    for follower in self.followers(&monitor.ip) {
                        if !monitor.replicas.contains(&follower.ip) {
                            replicas.push(follower.ip.clone());
                        }
                    }
                    for other in self.sentinels.values() {
                        let same = other
                            .masters
                            .get(name)
                            .is_some_and(|theirs| theirs.ip == monitor.ip);
                        if other.id != sentinel.id
                            && same
                            && !self.partitioned.contains(&other.name)
                            && !monitor.others.contains(&other.id)
                        {
                            others.push(other.id.clone());
                        }
                    }
                }
                let down_since = if alive {
                    None
                } else {
                    monitor.down_since.or(Some(now))
                };
                if down_since != monitor.down_since || !replicas.is_empty() || !others.is_empty() {
                    news.push((uid.clone(), name.clone(), down_since, replicas, others));
                }
            }
        }
        for (uid, name, down_since, replicas, others) in news {
            if let Some(monitor) = self
                .sentinels
                .get_mut(&uid)
                .and_then(|sentinel| sentinel.masters.get_mut(&name))
            {
                monitor.down_since = down_since;
                monitor.replicas.extend(replicas);
                monitor.others.extend(others);
            }
        }
        let mut elections = BTreeMap::new();
        for uid in &uids {
            for (name, monitor) in &self.sentinels[uid].masters {
                let asked = monitor
                    .failover_since
                    .is_some_and(|since| now >= since + FAILOVER_MS);
                if asked || self.objectively_down(uid, name, monitor, now) {
                    elections
                        .entry((name.clone(), monitor.ip.clone()))
                        .or_insert_with(|| uid.clone());
                }
            }
        }
        for ((name, ip), uid) in elections {
            self.promote(&uid, &name, &ip, now);
        }
        self.correct(now);
    }

    fn objectively_down(&self, uid: &str, name: &str, monitor: &Monitor, now: Millis) -> bool {
        let since = |monitor: &Monitor| {
            let after: Millis = monitor
                .settings
                .get("down-after-milliseconds")
                .and_then(|value| value.parse().ok())
                .unwrap_or(30_000);
            monitor
                .down_since
                .is_some_and(|since| now >= since + after + FAILOVER_MS)
        };
        if !since(monitor) || self.partitioned.contains(&self.sentinels[uid].name) {
            return false;
        }
        let agreeing = self
            .sentinels
            .values()
            .filter(|other| !self.partitioned.contains(&other.name))
            .filter(|other| {
                other
                    .masters
                    .get(name)
                    .is_some_and(|theirs| theirs.ip == monitor.ip && since(theirs))
            })
            .count();
        // The quorum says it is down, the majority of all known Sentinels elects who acts.
        agreeing >= monitor.quorum && agreeing * 2 > monitor.others.len() + 1
    }

    /// Makes the best known replica master, for all Sentinels that can be reached.
    fn promote(&mut self, uid: &str, name: &str, old_ip: &str, now: Millis) {
        let Some(monitor) = self.sentinels[uid].masters.get(name).cloned() else {
            return;
        };
        let best = self
            .nodes
            .iter()
            .filter(|(_, node)| {
                monitor.replicas.contains(&node.ip)
                    && node.ip != old_ip
                    && !self.partitioned.contains(&node.name)
                    && node.config.get("slave-priority").map(String::as_str) != Some("0")
            })
            .max_by_key(|(uid, node)| (node.offset, std::cmp::Reverse((*uid).clone())))
            .map(|(uid, node)| (uid.clone(), node.ip.clone()));
        let Some((new_uid, new_ip)) = best else {
            if let Some(monitor) = self
                .sentinels
                .get_mut(uid)
                .and_then(|sentinel| sentinel.masters.get_mut(name))
            {
                monitor.failover_since = None;
            }
            return;
        };
        self.ids += 1;
        if let Some(node) = self.nodes.get_mut(&new_uid) {
            (node.master, node.link_since) = (None, None);
            node.replid = digest(format!("{}/{}", node.replid, self.ids).as_bytes());
        }
        let epoch = self
            .sentinels
            .values()
            .filter_map(|sentinel| Some(sentinel.masters.get(name)?.epoch))
            .max()
            .unwrap_or(0)
            + 1;
        for node in self.nodes.values_mut() {
            let known = monitor.replicas.contains(&node.ip) && node.ip != new_ip;
            if known && !self.partitioned.contains(&node.name) {
                node.master = Some((new_ip.clone(), 6379));
                (node.link_since, node.asked_at) = (None, now);
            }
        }
        for sentinel in self.sentinels.values_mut() {
            if self.partitioned.contains(&sentinel.name) {
                continue;
            }
            if let Some(theirs) = sentinel.masters.get_mut(name)
                && theirs.ip == old_ip
            {
                theirs.replicas.extend(monitor.replicas.iter().cloned());
                theirs.replicas.remove(&new_ip);
                theirs.replicas.insert(old_ip.to_owned());
                theirs.ip.clone_from(&new_ip);
                theirs.epoch = epoch;
                (theirs.down_since, theirs.failover_since) = (None, None);
            }
        }
    }

    /// Sentinels set right what they know to be their replica: a former master that is back, a replica of somebody else.
    fn correct(&mut self, now: Millis) {
        let orders: Vec<(String, String)> = self
            .sentinels
            .values()
            .filter(|sentinel| !self.partitioned.contains(&sentinel.name))
            .flat_map(|sentinel| sentinel.masters.values())
            .filter(|monitor| {
                self.node_at(&monitor.ip)
                    .is_some_and(|node| node.master.is_none())
            })
            .flat_map(|monitor| {
                monitor
                    .replicas
                    .iter()
                    .map(|replica| (replica.clone(), monitor.ip.clone()))
            })
            .collect();
        let votes = self.majority();
        for (replica, master) in orders {
            // Only the majority's view; a Sentinel gone astray has none of the others behind it.
            if votes.as_ref() != Some(&master) || replica == master {
                continue;
            }
            let wrong = self.nodes.iter().find(|(_, node)| {
                node.ip == replica
                    && !self.partitioned.contains(&node.name)
                    && node.master.as_ref().map(|(ip, _)| ip) != Some(&master)
                    && now >= node.asked_at + CORRECT_MS
            });
            if let Some(uid) = wrong.map(|(uid, _)| uid.clone())
                && let Some(node) = self.nodes.get_mut(&uid)
            {
                node.master = Some((master, 6379));
                (node.link_since, node.asked_at) = (None, now);
            }
        }
    }

    /// A master with a preStop hook makes another master before it goes.
    fn hand_over(&mut self, uid: &str, now: Millis) {
        let Some(node) = self.nodes.get(uid) else {
            return;
        };
        if node.master.is_some() {
            return;
        }
        let ip = node.ip.clone();
        let watcher = self.sentinels.iter().find_map(|(watcher, sentinel)| {
            let (name, _) = sentinel
                .masters
                .iter()
                .find(|(_, monitor)| monitor.ip == ip)?;
            Some((watcher.clone(), name.clone()))
        });
        if let Some((watcher, name)) = watcher {
            self.promote(&watcher, &name, &ip, now);
            let new = self
                .sentinels
                .get(&watcher)
                .and_then(|sentinel| sentinel.masters.get(&name))
                .map(|monitor| monitor.ip.clone());
            if let (Some(new), Some(node)) = (new.filter(|new| *new != ip), self.nodes.get_mut(uid))
            {
                node.master = Some((new, 6379));
                (node.link_since, node.asked_at) = (None, now);
            }
        }
    }

    /// Whether what runs in a pod is ready: a Redis whose readiness looks at its link needs one, everything else just runs.
    pub(crate) fn ready(&self, pod: &Value) -> bool {
        let Some(node) = self.nodes.get(text(pod, "/metadata/uid")) else {
            return true;
        };
        !node.looks_at_link || node.master.is_none() || node.link_since.is_some()
    }

    /// Loses a pod's data and memory.
    pub(crate) fn wipe(&mut self, pod: &str, uid: &str) {
        self.disks.remove(pod);
        self.nodes.remove(uid);
        self.sentinels.remove(uid);
    }

    /// Lets clients write: every reachable master gets so many keys more.
    pub(crate) fn write(&mut self, keys: i64) {
        for node in self.nodes.values_mut() {
            if node.master.is_none() && !self.partitioned.contains(&node.name) {
                node.keys += keys;
                node.offset += keys * 100;
            }
        }
    }

    /// Answers a call. `resolve` turns handles into values.
    pub(crate) fn call(
        &mut self,
        call: &RedisCall,
        now: Millis,
        resolve: &dyn Fn(&str) -> Result<String, String>,
    ) -> Result<Option<Value>, Failure> {
        let place = format!("{}:{}", call.host, call.port);
        let unreachable = || Failure {
            kind: FailureKind::Unreachable,
            message: format!("redis {place} does not answer"),
        };
        let missing = |message: String| Failure {
            kind: FailureKind::SecretMissing,
            message,
        };
        let password = call
            .password
            .as_deref()
            .map(resolve)
            .transpose()
            .map_err(missing)?
            .filter(|password| !password.is_empty());
        enum Who {
            Node(String),
            Sentinel(String),
        }
        let who = if call.port == 26379 {
            self.sentinels
                .iter()
                .find(|(_, sentinel)| {
                    sentinel.ip == call.host && !self.partitioned.contains(&sentinel.name)
                })
                .map(|(uid, _)| Who::Sentinel(uid.clone()))
        } else {
            self.nodes
                .iter()
                .find(|(_, node)| node.ip == call.host && !self.partitioned.contains(&node.name))
                .map(|(uid, _)| Who::Node(uid.clone()))
        };
        let who = who.ok_or_else(unreachable)?;
        if let Who::Node(uid) = &who {
            let node = &self.nodes[uid];
            let fine = match &password {
                Some(password) => node.passwords.contains(password),
                None => node.passwords.is_empty(),
            };
            if !fine {
                let answer = if password.is_some() {
                    "WRONGPASS"
                } else {
                    "NOAUTH Authentication required"
                };
                return Err(Failure {
                    kind: FailureKind::Refused,
                    message: format!("redis {place} answered {answer}"),
                });
            }
        }
        let mut replies = Map::new();
        let mut last = Value::Null;
        for command in &call.commands {
            let mut words = Vec::with_capacity(command.arguments.len());
            for word in &command.arguments {
                words.push(resolve(word).map_err(missing)?);
            }
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let reply = match &who {
                Who::Node(uid) => self.node_command(uid, &words, now),
                Who::Sentinel(uid) => self.sentinel_command(uid, &words, now),
            };
            match reply {
                Ok(reply) => {
                    if !command.expect.is_empty() && !begins(&reply, &command.expect) {
                        return Ok(None);
                    }
                    last = reply.clone();
                    replies.insert(command.name.clone(), reply);
                }
                Err(error)
                    if command
                        .ignore_errors
                        .iter()
                        .any(|ignored| error.starts_with(ignored.as_str())) => {}
                Err(error) => {
                    let shown: Vec<&str> = command
                        .arguments
                        .iter()
                        .take(2)
                        .map(String::as_str)
                        .collect();
                    return Err(Failure {
                        kind: FailureKind::Refused,
                        message: format!("redis {place} answered {} with {error}", shown.join(" ")),
                    });
                }
            }
        }
        Ok(Some(if call.commands.len() == 1 {
            last
        } else {
            Value::Object(replies)
        }))
    }

    fn node_command(&mut self, uid: &str, words: &[&str], now: Millis) -> Result<Value, String> {
        let upper: Vec<String> = words.iter().map(|word| word.to_uppercase()).collect();
        let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
        match upper.as_slice() {
            ["PING"] => Ok(json!("PONG")),
            ["INFO", sections @ ..] => {
                let followers = self.followers(&self.nodes[uid].ip).len();
                Ok(info(&self.nodes[uid], followers, sections))
            }
            ["ROLE"] => {
                let node = &self.nodes[uid];
                Ok(match &node.master {
                    None => json!(["master", node.offset, []]),
                    Some((ip, port)) => {
                        let link = if node.link_since.is_some() {
                            "connected"
                        } else {
                            "connect"
                        };
                        json!(["slave", ip, port, link, node.offset])
                    }
                })
            }
            ["REPLICAOF" | "SLAVEOF", "NO", "ONE"] => {
                self.ids += 1;
                let number = self.ids;
                let node = self.node_mut(uid)?;
                if node.master.is_some() {
                    node.replid = digest(format!("{}/{number}", node.replid).as_bytes());
                }
                (node.master, node.link_since, node.asked_at) = (None, None, now);
                Ok(json!("OK"))
            }
            ["REPLICAOF" | "SLAVEOF", _, _] => {
                let port = words[2]
                    .parse()
                    .map_err(|_| "ERR Invalid master port".to_owned())?;
                let target = (words[1].to_owned(), port);
                let node = self.node_mut(uid)?;
                if node.master.as_ref() != Some(&target) {
                    node.master = Some(target);
                    (node.link_since, node.asked_at) = (None, now);
                }
                Ok(json!("OK"))
            }
            ["CONFIG", "GET", ..] => {
                let pattern = words.get(2).copied().unwrap_or("*").to_lowercase();
                let config = &self.nodes[uid].config;
                Ok(Value::Object(
                    config
                        .iter()
                        .filter(|(name, _)| pattern == "*" || **name == pattern)
                        .map(|(name, value)| (name.clone(), json!(value)))
                        .collect(),
                ))
            }
            ["CONFIG", "SET", pairs @ ..] if !pairs.is_empty() && pairs.len() % 2 == 0 => {
                let node = self.node_mut(uid)?;
                for pair in words[2..].chunks(2) {
                    let [name, value] = pair else { continue };
                    let name = name.to_lowercase();
                    let value = libretto_mirror::parse_bytes(value)
                        .filter(|_| value.chars().any(|c| c.is_ascii_alphabetic()))
                        .map_or_else(|| (*value).to_owned(), |bytes| bytes.to_string());
                    if name == "requirepass" {
                        node.passwords = [value.clone()].into();
                        node.passwords.retain(|password| !password.is_empty());
                    }
                    set(&mut node.config, &name, &value);
                }
                Ok(json!("OK"))
            }
            ["ACL", "SETUSER", "DEFAULT", ..] => {
                let node = self.node_mut(uid)?;
                for word in &words[3..] {
                    if let Some(password) = word.strip_prefix('>') {
                        node.passwords.insert(password.to_owned());
                    }
                }
                Ok(json!("OK"))
            }
            ["DBSIZE"] => Ok(json!(self.nodes[uid].keys)),
            [
                "CLIENT" | "CONFIG" | "SAVE" | "BGSAVE" | "BGREWRITEAOF" | "WAIT" | "SCRIPT"
                | "ACL",
                ..,
            ] => Ok(json!("OK")),
            _ => Err(format!(
                "ERR the model of Redis does not know `{}`",
                words.join(" ")
            )),
        }
    }

    fn node_mut(&mut self, uid: &str) -> Result<&mut Node, String> {
        self.nodes
            .get_mut(uid)
            .ok_or_else(|| "ERR the node is gone".to_owned())
    }

    fn sentinel_command(
        &mut self,
        uid: &str,
        words: &[&str],
        now: Millis,
    ) -> Result<Value, String> {
        let upper: Vec<String> = words.iter().map(|word| word.to_uppercase()).collect();
        let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
        let name = words.get(2).copied().unwrap_or_default();
        let known = |model: &Self| {
            model.sentinels[uid]
                .masters
                .get(name)
                .cloned()
                .ok_or_else(|| "ERR No such master with that name".to_owned())
        };
        match upper.as_slice() {
            ["PING"] => Ok(json!("PONG")),
            ["INFO", ..] => Ok(
                json!({"redis_version": "7.2.4", "sentinel_masters": self.sentinels[uid].masters.len().to_string()}),
            ),
            ["SENTINEL", "MYID"] => Ok(json!(self.sentinels[uid].id)),
            ["SENTINEL", "MASTERS"] => Ok(self.sentinels[uid]
                .masters
                .iter()
                .map(|(name, monitor)| self.master_reply(name, monitor, now))
                .collect()),
            ["SENTINEL", "MASTER", _] => Ok(self.master_reply(name, &known(self)?, now)),
            ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", _] => {
                Ok(match self.sentinels[uid].masters.get(name) {
                    Some(monitor) => json!([monitor.ip, monitor.port.to_string()]),
                    None => Value::Null,
                })
            }
            ["SENTINEL", "REPLICAS" | "SLAVES", _] => {
                let monitor = known(self)?;
                Ok(monitor
                    .replicas
                    .iter()
                    .map(|ip| match self.node_at(ip) {
                        Some(node) => json!({
                            "name": format!("{ip}:6379"), "ip": ip, "port": "6379", "flags": "slave",
                            "master-link-status": if node.link_since.is_some() { "ok" } else { "err" },
                            "slave-priority": node.config.get("slave-priority"),
                            "slave-repl-offset": node.offset.to_string(),
                        }),
                        None => json!({
                            "name": format!("{ip}:6379"), "ip": ip, "port": "6379", "flags": "s_down,slave,disconnected",
                            "master-link-status": "err", "slave-priority": "100", "slave-repl-offset": "0",
                        }),
                    })
                    .collect())
            }
            ["SENTINEL", "SENTINELS", _] => Ok(known(self)?
                .others
                .iter()
                .map(|id| json!({"name": id, "runid": id, "flags": "sentinel"}))
                .collect()),
            ["SENTINEL", "CKQUORUM", _] => {
                let monitor = known(self)?;
                if monitor.others.len() + 1 >= monitor.quorum {
                    Ok(json!("OK"))
                } else {
                    Err("NOQUORUM not enough available Sentinels".to_owned())
                }
            }
            ["SENTINEL", "MONITOR", _, _, _, _] => {
                let quorum = words[5]
                    .parse()
                    .map_err(|_| "ERR Quorum must be 1 or greater.".to_owned())?;
                let port = words[4]
                    .parse()
                    .map_err(|_| "ERR Invalid port number".to_owned())?;
                let sentinel = self.sentinel_mut(uid)?;
                if sentinel.masters.contains_key(name) {
                    return Err("ERR Duplicated master name".to_owned());
                }
                sentinel.masters.insert(
                    name.to_owned(),
                    Monitor {
                        ip: words[3].to_owned(),
                        port,
                        quorum,
                        epoch: 0,
                        settings: [
                            ("down-after-milliseconds", "30000"),
                            ("failover-timeout", "180000"),
                            ("parallel-syncs", "1"),
                        ]
                        .map(|(name, value)| (name.to_owned(), value.to_owned()))
                        .into(),
                        replicas: BTreeSet::new(),
                        others: BTreeSet::new(),
                        down_since: None,
                        failover_since: None,
                    },
                );
                Ok(json!("OK"))
            }
            ["SENTINEL", "REMOVE", _] => {
                known(self)?;
                self.sentinel_mut(uid)?.masters.remove(name);
                Ok(json!("OK"))
            }
            ["SENTINEL", "RESET", _] => {
                if let Some(monitor) = self.sentinel_mut(uid)?.masters.get_mut(name) {
                    monitor.replicas.clear();
                    monitor.others.clear();
                }
                Ok(json!(1))
            }
            ["SENTINEL", "SET", _, pairs @ ..] if !pairs.is_empty() && pairs.len() % 2 == 0 => {
                known(self)?;
                let pairs: Vec<(String, String)> = words[3..]
                    .chunks(2)
                    .map(|pair| (pair[0].to_lowercase(), pair[1].to_owned()))
                    .collect();
                let monitor = self
                    .sentinel_mut(uid)?
                    .masters
                    .get_mut(name)
                    .ok_or_else(|| "ERR No such master with that name".to_owned())?;
                for (option, value) in pairs {
                    if option == "quorum" {
                        monitor.quorum = value.parse().map_err(|_| {
                            "ERR Invalid argument for SENTINEL SET 'quorum'".to_owned()
                        })?;
                    } else {
                        monitor.settings.insert(option, value);
                    }
                }
                Ok(json!("OK"))
            }
            ["SENTINEL", "FAILOVER", _] => {
                let monitor = known(self)?;
                if monitor.failover_since.is_some() {
                    return Err("INPROG Failover already in progress".to_owned());
                }
                let electable = self.nodes.values().any(|node| {
                    monitor.replicas.contains(&node.ip)
                        && node.ip != monitor.ip
                        && !self.partitioned.contains(&node.name)
                        && node.config.get("slave-priority").map(String::as_str) != Some("0")
                });
                if !electable {
                    return Err("NOGOODSLAVE No suitable replica to promote".to_owned());
                }
                if let Some(monitor) = self.sentinel_mut(uid)?.masters.get_mut(name) {
                    monitor.failover_since = Some(now);
                }
                Ok(json!("OK"))
            }
            ["SENTINEL", "CONFIG" | "FLUSHCONFIG" | "DEBUG", ..] => Ok(json!("OK")),
            _ => Err(format!(
                "ERR the model of Sentinel does not know `{}`",
                words.join(" ")
            )),
        }
    }

    fn sentinel_mut(&mut self, uid: &str) -> Result<&mut Sentinel, String> {
        self.sentinels
            .get_mut(uid)
            .ok_or_else(|| "ERR the sentinel is gone".to_owned())
    }

    fn master_reply(&self, name: &str, monitor: &Monitor, now: Millis) -> Value {
        let after: Millis = monitor
            .settings
            .get("down-after-milliseconds")
            .and_then(|value| value.parse().ok())
            .unwrap_or(30_000);
        let mut flags = "master".to_owned();
        if monitor.down_since.is_some_and(|since| now >= since + after) {
            flags = format!("s_down,{flags}");
        }
        if monitor.failover_since.is_some() {
            flags.push_str(",failover_in_progress");
        }
        let mut reply = json!({
            "name": name, "ip": monitor.ip, "port": monitor.port.to_string(), "flags": flags,
            "quorum": monitor.quorum.to_string(), "config-epoch": monitor.epoch.to_string(),
            "num-slaves": monitor.replicas.len().to_string(), "num-other-sentinels": monitor.others.len().to_string(),
        });
        for (option, value) in &monitor.settings {
            if option != "auth-pass" && option != "auth-user" {
                reply[option] = json!(value);
            }
        }
        reply
    }
}

fn set(config: &mut BTreeMap<String, String>, name: &str, value: &str) {
    if let Some(twin) = twin(name) {
        config.insert(twin, value.to_owned());
    }
    config.insert(name.to_owned(), value.to_owned());
}

/// Lines of a redis.conf. Several `save` and `client-output-buffer-limit` lines add up.
fn read_config(content: &str, config: &mut BTreeMap<String, String>) {
    let mut saves: Option<Vec<String>> = None;
    for line in content.lines() {
        let Some((name, value)) = line.trim().split_once(' ') else {
            continue;
        };
        let value = value.trim();
        let value = value
            .strip_prefix('"')
            .and_then(|value| value.strip_suffix('"'))
            .unwrap_or(value);
        match name {
            "slaveof" | "replicaof" | "#" | "bind" | "port" => {}
            "save" => {
                let saves = saves.get_or_insert_default();
                if value.is_empty() {
                    saves.clear();
                } else {
                    saves.push(value.to_owned());
                }
            }
            "client-output-buffer-limit" => {}
            name if name.chars().all(|c| c.is_ascii_lowercase() || c == '-') => {
                let value = libretto_mirror::parse_bytes(value)
                    .filter(|_| value.chars().any(|c| c.is_ascii_alphabetic()))
                    .map_or_else(|| value.to_owned(), |bytes| bytes.to_string());
                set(config, name, &value);
            }
            _ => {}
        }
    }
    if let Some(saves) = saves {
        config.insert("save".to_owned(), saves.join(" "));
    }
}

fn info(node: &Node, followers: usize, sections: &[&str]) -> Value {
    let mut reply = Map::new();
    let all = sections.is_empty() || sections.contains(&"ALL") || sections.contains(&"EVERYTHING");
    let mut put = |key: &str, value: String| {
        reply.insert(key.to_owned(), Value::String(value));
    };
    if all || sections.contains(&"SERVER") {
        put("redis_version", node.version.clone());
        put(
            "run_id",
            digest(format!("{}{}", node.name, node.replid).as_bytes()),
        );
        put("uptime_in_seconds", "1".to_owned());
    }
    if all || sections.contains(&"PERSISTENCE") {
        put("loading", "0".to_owned());
    }
    if (all || sections.contains(&"KEYSPACE")) && node.keys > 0 {
        put("db0", format!("keys={},expires=0,avg_ttl=0", node.keys));
    }
    if all || sections.contains(&"REPLICATION") {
        put("connected_slaves", followers.to_string());
        put("master_replid", node.replid.clone());
        put("master_repl_offset", node.offset.to_string());
        match &node.master {
            None => put("role", "master".to_owned()),
            Some((ip, port)) => {
                put("role", "slave".to_owned());
                put("master_host", ip.clone());
                put("master_port", port.to_string());
                let link = if node.link_since.is_some() {
                    "up"
                } else {
                    "down"
                };
                put("master_link_status", link.to_owned());
                put("slave_repl_offset", node.offset.to_string());
                put("slave_read_only", "1".to_owned());
                put(
                    "slave_priority",
                    node.config
                        .get("slave-priority")
                        .cloned()
                        .unwrap_or_default(),
                );
            }
        }
    }
    Value::Object(reply)
}

fn listens(pod: &Value, port: i64) -> bool {
    pod.pointer("/spec/containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .flat_map(|container| container.get("ports").and_then(Value::as_array))
        .flatten()
        .any(|entry| entry.get("containerPort").and_then(Value::as_i64) == Some(port))
}

fn has_pre_stop(pod: &Value) -> bool {
    pod.pointer("/spec/containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .any(|container| container.pointer("/lifecycle/preStop").is_some())
}

/// `7.2.4` of an image `redis:7.2.4-alpine`.
fn version_of(pod: &Value) -> String {
    let image = pod
        .pointer("/spec/containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|container| text(container, "/image"))
        .find(|image| image.contains("redis"))
        .unwrap_or_default();
    let tag = image.rsplit(':').next().unwrap_or_default();
    let version = tag.split('-').next().unwrap_or_default();
    if version.starts_with(|c: char| c.is_ascii_digit()) {
        version.to_owned()
    } else {
        "7.2.4".to_owned()
    }
}

/// Texts of every ConfigMap mounted into a pod, by file name.
fn mounted(world: &World, pod: &Value) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    for volume in pod
        .pointer("/spec/volumes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let wanted = text(volume, "/configMap/name");
        for map in world
            .of_kind("ConfigMap")
            .filter(|map| !wanted.is_empty() && text(map, "/metadata/name") == wanted)
        {
            for (key, content) in map["data"].as_object().into_iter().flatten() {
                texts.insert(key.clone(), content.as_str().unwrap_or_default().to_owned());
            }
        }
    }
    texts
}

/// Key `password` of a Secret that the pod mounts or reads into its environment.
fn password_of(world: &World, pod: &Value) -> Option<String> {
    let spec = pod["spec"].to_string();
    world
        .of_kind("Secret")
        .filter(|secret| {
            let name = text(secret, "/metadata/name");
            !name.is_empty() && spec.contains(&format!("\"{name}\""))
        })
        .find_map(|secret| decoded(secret, "password"))
        .filter(|password| !password.is_empty())
}

/// A key of a Secret.
pub(crate) fn decoded(secret: &Value, key: &str) -> Option<String> {
    use base64::Engine as _;
    let encoded = secret.get("data")?.get(key)?.as_str()?;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .ok()?;
    String::from_utf8(bytes).ok()
}
