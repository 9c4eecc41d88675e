use clap::CommandFactory as _;

use super::*;
use crate::config::HookChoice;

fn config(line: &str) -> Result<crate::config::RunConfig, String> {
    let words = std::iter::once("xbr").chain(line.split(' ').map(|word| if word == "''" { "" } else { word }));
    match Cli::try_parse_from(words) {
        Ok(Cli { verb: Verb::Run(run), .. }) => run.config().map_err(|failure| {
            assert_eq!(failure.exit, Exit::Usage);
            failure.message
        }),
        Ok(other) => panic!("not run: {other:?}"),
        Err(error) => Err(one_line(&error.to_string())),
    }
}

#[test]
fn the_description_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn run_takes_its_options() {
    let config =
        config("run br0 br1 br0 --port eth0 --port tap1 --hook eth0=xdp --hook eth0=xdp --hook tap1=off --overrule netfilter --run-dir /tmp/x --fdb-size 16 -v")
            .unwrap();
    assert_eq!(config.bridges, ["br0", "br1"]);
    assert!(!config.all);
    assert_eq!(config.ports.iter().collect::<Vec<_>>(), ["eth0", "tap1"]);
    assert_eq!(config.hooks["eth0"], HookChoice::Xdp);
    assert_eq!(config.hooks["tap1"], HookChoice::Off);
    assert_eq!(config.run_dir.to_str(), Some("/tmp/x"));
    assert_eq!(config.fdb_size, 16);
    assert_eq!(config.overrule.len(), 1);
    assert_eq!(config.coherence, crate::config::Coherence::Kernel);
    assert!(!config.redirect_peer && self::config("run br0 --redirect-peer").unwrap().redirect_peer);
    let config = self::config("run br0 --coherence netlink").unwrap();
    assert_eq!(config.coherence, crate::config::Coherence::Netlink);
    assert_eq!(config.shadow, None);
}

#[test]
fn shadow_mode_has_a_sample() {
    let sample = |line| config(line).unwrap().shadow.map(std::num::NonZeroU32::get);
    assert_eq!(sample("run br0 --shadow"), Some(16));
    assert_eq!(sample("run br0 --shadow --sample 1"), Some(1));
    assert_eq!(sample("run --all --shadow --hook eth0=xdp"), Some(16));
    assert_eq!(sample("run br0"), None);
}

#[test]
fn run_has_defaults_and_verbs_may_be_short() {
    let config = config("ru --all").unwrap();
    assert!(config.all && config.bridges.is_empty() && config.ports.is_empty() && config.hooks.is_empty());
    assert_eq!(config.fdb_size, 65536);
    assert!(matches!(Cli::try_parse_from(["xbr", "st"]).unwrap().verb, Verb::Status(_)));
    assert!(matches!(
        Cli::try_parse_from(["xbr", "t", "br0", "-b", "-n", "3", "-d", "0.5"]).unwrap().verb,
        Verb::Top(_)
    ));
}

#[test]
fn bad_input_is_one_line_that_names_it() {
    for (line, message) in [
        ("run", "no bridge is named: use xbr run BRIDGE, or --all for every bridge"),
        ("run br0 --all", "both --all and bridge \"br0\" are given: use one of them"),
        ("run br0 --hook e=tc --hook e=xdp", "port \"e\" has two different --hook options: keep one"),
        (
            "run br0 --hook e=ebpf",
            "invalid value 'e=ebpf' for '--hook <PORT=HOOK>': unknown hook \"ebpf\": use auto, xdp, tc or off (try --help)",
        ),
        (
            "run br0 --hook e",
            "invalid value 'e' for '--hook <PORT=HOOK>': say it as PORT=HOOK, with HOOK one of auto, xdp, tc, off (try --help)",
        ),
        (
            "run a-name-of-16-byt",
            "invalid value 'a-name-of-16-byt' for '[BRIDGE]...': an interface name has at most 15 bytes, this one has 16 (try --help)",
        ),
        (
            "run br/0",
            "invalid value 'br/0' for '[BRIDGE]...': an interface name has no '/', no ':' and no white space (try --help)",
        ),
        (
            "run br\t0",
            "invalid value 'br 0' for '[BRIDGE]...': an interface name has no '/', no ':' and no white space (try --help)",
        ),
        (
            "run br0 --hook =tc",
            "invalid value '=tc' for '--hook <PORT=HOOK>': an interface name is not empty (try --help)",
        ),
        (
            "run br0 --overrule mtu",
            "invalid value 'mtu' for '--overrule <REASON>': this reason cannot be overruled: use one of netfilter, bridge_promisc, tc_filter, foreign_xdp, egress_policy (try --help)",
        ),
        (
            "run br0 --overrule frob",
            "invalid value 'frob' for '--overrule <REASON>': there is no such reason: use one of netfilter, bridge_promisc, tc_filter, foreign_xdp, egress_policy (try --help)",
        ),
        (
            "run br0 --fdb-size 15",
            "invalid value '15' for '--fdb-size <N>': give a number from 16 to 4194304 (try --help)",
        ),
        (
            "run br0 --fdb-size x",
            "invalid value 'x' for '--fdb-size <N>': give a number from 16 to 4194304 (try --help)",
        ),
        ("run br0 --prot eth0", "unexpected argument '--prot' found; a similar argument exists: '--port' (try --help)"),
        ("run br0 --sample 3", "--sample is about shadow mode: give --shadow as well, or leave it out"),
        (
            "run br0 --shadow --sample 0",
            "invalid value '0' for '--sample <N>': give a number from 1 to 1000000 (try --help)",
        ),
        ("run br0 --port", "a value is required for '--port <DEV>' but none was supplied (try --help)"),
        ("frob", "unrecognized subcommand 'frob' (try --help)"),
    ] {
        let got = config(line).unwrap_err();
        let sorted = |text: &str| {
            let mut words: Vec<_> = text.replace(',', "").split(' ').map(str::to_owned).collect();
            words.sort_unstable();
            words
        };
        // The list of reasons is in the order of their numbers, which does not matter here.
        if line.contains("--overrule") {
            assert_eq!(sorted(&got), sorted(message), "{line}: {got}");
        } else {
            assert_eq!(got, message, "{line}");
        }
        assert_eq!(got.lines().count(), 1);
    }
    assert!(config("run ''").is_err());
}

#[test]
fn the_main_help_documents_exit_codes() {
    let help = Cli::command().render_long_help().to_string();
    for line in ["  3  no daemon answers", "  4  status --check: something is not accelerated", "Verbs:", "Examples:"] {
        assert!(help.contains(line), "{help}");
    }
    assert!(!help.contains("completions"), "{help}");
}
