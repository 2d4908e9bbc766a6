#![allow(clippy::unwrap_used)]
//! The command line as a whole: what parses, what help says, which exit codes come out.

use clap::CommandFactory as _;

use super::*;

#[test]
fn the_definitions_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_parses_its_examples() {
    for line in [
        "up --once --timeout 30 --port 0 --driver process",
        "up --no-demo --data-dir /tmp/x --package redis --package ./mine",
        "run --package redis --namespace test --metrics-addr 127.0.0.1:0",
        "install --image registry.example/libretto:1 --package redis --package ./mine",
        "install --scope namespace -n team-a",
        "uninstall --scope namespace --namespace team-a",
        "apply -f a.yaml -f - --force-conflicts --dry-run",
        "get pods -A -o wide",
        "get rediscluster/test pod/x -o yaml",
        "describe rediscluster test -n ns",
        "delete pod/x --now",
        "delete -f a.yaml --no-wait",
        "logs -f sts/x -c redis --tail 20",
        "exec -it x -- sh -c exit",
        "events --for pod/x --warnings",
        "explain rediscluster/test -n ns --package redis",
        "explain rediscluster/test roll -o yaml",
        "plan rediscluster/test --exit-code",
        "plan -f changed.yaml -o json",
        "package schema --tests",
        "package diff redis ./mine -f a.yaml",
        "package plan redis -f a.yaml -f b.yaml",
        "query --tables",
        "query -o json SELECT",
        "package test redis failover --trace",
        "package rbac",
        "completion zsh",
        "version --client --json",
        "port-forward svc/x 7000:6379 6380",
        "--color never get pods",
    ] {
        let words = std::iter::once("libretto").chain(line.split(' '));
        Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn wrong_usage_exits_with_two() {
    for line in [
        "",
        "nonsense",
        "get",
        "apply",
        "exec x",
        "delete",
        "query",
        "explain",
        "plan",
        "package plan",
        "port-forward x",
        "port-forward x a:b",
        "delete pod/x -f a.yaml",
    ] {
        let words =
            std::iter::once("libretto").chain(line.split(' ').filter(|word| !word.is_empty()));
        let error = Cli::try_parse_from(words).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn every_command_has_an_about_and_flags_have_help() {
    fn check(command: &clap::Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        assert!(
            command.get_about().is_some(),
            "{path} says nothing about itself"
        );
        for argument in command.get_arguments() {
            let id = argument.get_id();
            assert!(
                argument.get_help().is_some() || id == "shell",
                "{path}: {id} has no help"
            );
        }
        for sub in command.get_subcommands() {
            check(sub, &path);
        }
    }
    let mut command = Cli::command();
    command.build();
    check(&command, "");
}

#[test]
fn exit_codes_are_as_documented() {
    for (error, code) in [
        (CliError::failed("x"), 1),
        (CliError::usage("x"), 2),
        (CliError::Interrupted, 130),
        (CliError::NobodyListens, 0),
        (CliError::Exit(7), 7),
    ] {
        assert_eq!(error.exit_code(), code);
    }
}

#[test]
fn errors_are_one_message_with_a_hint() {
    let error = CliError::failed("pod default/x does not exist").hint("list them");
    assert_eq!(
        error.to_string(),
        "pod default/x does not exist\n  hint: list them"
    );
}

#[test]
fn what_help_shows_can_be_pasted() {
    fn check(command: &clap::Command, seen: &mut usize) {
        let help = command.get_after_help().map(ToString::to_string);
        for line in help.iter().flat_map(|help| help.lines()) {
            let Some(example) = line.strip_prefix("  libretto ") else {
                continue;
            };
            *seen += 1;
            // The command, and after a `#` what it is for.
            let command = example.split(" # ").next().unwrap_or_default();
            assert!(!command.trim_end().contains("  "), "{line}");
            let words = command.replace("SELECT ", "").replace(", ", "");
            let words = words.split(['|', '>']).next().unwrap_or_default();
            let words: Vec<&str> = words.split_whitespace().collect();
            if !words.contains(&"query") {
                let line = std::iter::once("libretto").chain(words);
                Cli::try_parse_from(line).unwrap_or_else(|error| panic!("{example}: {error}"));
            }
        }
        for sub in command.get_subcommands() {
            check(sub, seen);
        }
    }
    let mut seen = 0;
    check(&Cli::command(), &mut seen);
    assert!(seen > 20, "{seen}");
}

#[test]
fn a_certificate_that_does_not_fit_is_another_cluster() {
    use libretto_actions::kube::CallError;
    let hint =
        |reason: &str| CliError::call("x", &CallError::Unreachable(reason.to_owned())).to_string();
    let other = hint("client error (Connect): invalid peer certificate: UnknownIssuer");
    assert!(
        other.contains("of another cluster") && !other.contains("running?"),
        "{other}"
    );
    for reason in ["invalid peer certificate: Expired", "connection refused"] {
        assert!(hint(reason).contains("is the cluster running?"), "{reason}");
    }
}

#[test]
fn the_main_help_reads() {
    let help = Cli::command().render_help().to_string();
    for command in ["up", "run", "query", "package", "port-forward"] {
        assert!(help.contains(&format!("  {command} ")), "{help}");
    }
    assert!(help.contains("Exit codes: 0 done"), "{help}");
}

#[test]
fn the_client_library_speaks_up_only_when_asked() {
    for (base, verbose, expected) in [
        (0, 0, "error,libretto::notice=warn,kube_client=off"),
        (
            1,
            0,
            "warn,libretto=info,libretto_actions=info,kube_client=off",
        ),
        (0, 1, "warn,libretto=info,libretto_actions=info"),
        (1, 1, "info,libretto=debug,libretto_actions=debug"),
        (1, 9, "debug"),
    ] {
        assert_eq!(log_filter(base, verbose), expected);
    }
}

#[test]
fn switches_in_the_environment_take_one_and_zero() {
    let switches = Cli::command()
        .find_subcommand("up")
        .unwrap()
        .get_arguments()
        .filter(|argument| argument.get_env().is_some() && !argument.get_action().takes_values())
        .map(|argument| {
            let values = argument
                .get_value_parser()
                .possible_values()
                .into_iter()
                .flatten();
            let values: Vec<String> = values.map(|value| value.get_name().to_owned()).collect();
            (argument.get_id().to_string(), values)
        })
        .collect::<Vec<_>>();
    assert!(!switches.is_empty());
    for (name, values) in switches {
        for value in ["1", "0", "true", "false"] {
            assert!(values.iter().any(|known| known == value), "{name}: {value}");
        }
    }
}

#[test]
fn once_without_a_demo_names_the_right_help() {
    let error = CliError::usage("--once …; see `libretto up --help`");
    assert!(!error.to_string().contains("libretto --help"));
    assert!(CliError::usage("x").to_string().contains("libretto --help"));
    let matches = Cli::command()
        .try_get_matches_from(["libretto", "package", "lint", "x"])
        .unwrap();
    let error = CliError::usage("x").of_command(&spoken(&matches));
    assert_eq!(
        error.to_string(),
        "x\n\nSee `libretto package lint --help`."
    );
}
