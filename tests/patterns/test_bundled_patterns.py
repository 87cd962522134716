"""The bundled patterns and packs: enough of each, none alike, and right wherever a few lines can recompute it."""

from __future__ import annotations

import http
import re
import signal
import socket
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from click.testing import CliRunner
from packs import pack_yaml, refusal

from engram.cli import main
from engram.dataset.build import split, write_data
from engram.patterns.loading import Pattern, find_files, load_patterns, packs
from engram.support.errors import EngramError
from engram.support.files import bundled
from engram.support.text import near_duplicates, normalise, visible

PATTERNS = load_patterns(find_files())
PACKS = {name: load_patterns([path]) for name, path in packs().items()}
ALL = [*PATTERNS, *(pattern for patterns in PACKS.values() for pattern in patterns)]


def of_category(category: str) -> list[Pattern]:
    return [pattern for pattern in ALL if pattern.category == category]


def rows(category: str, words: str | None = None) -> dict[str, str]:
    """The text after the words that a category's inputs begin with, and the answer; by default all words in common."""
    found = of_category(category)
    if words is None:
        words = found[0].input
        while not all(pattern.input.startswith(words) for pattern in found):
            words = words[:-1]
        words = words[: words.rfind(" ") + 1]
    assert found and all(pattern.input.startswith(words) for pattern in found)
    return {pattern.input[len(words) :].strip(): pattern.output for pattern in found}


@pytest.mark.parametrize(("kind", "least"), [("code_idioms", 40), ("facts", 80), ("formats", 80), ("error_fixes", 40)])
def test_there_are_as_many_patterns_as_promised(kind: str, least: int) -> None:
    assert sum(pattern.kind == kind for pattern in PATTERNS) >= least


def test_there_are_four_packs_of_fifty_facts_or_more() -> None:
    sizes = {name: len(patterns) for name, patterns in PACKS.items()}
    assert sizes == {"acronyms": 81, "capitals": 128, "http": 120, "ports": 86}
    assert all({pattern.kind for pattern in patterns} == {name} for name, patterns in PACKS.items())


def test_categories_are_large_enough_to_hold_some_out() -> None:
    counts = Counter((pattern.kind, pattern.category) for patterns in PACKS.values() for pattern in patterns)
    assert min(counts.values()) >= 5 and len(counts) == len({category for _, category in counts})


def test_no_fact_comes_twice() -> None:
    for group in (PATTERNS, [pattern for patterns in PACKS.values() for pattern in patterns]):
        counts = Counter(normalise(pattern.input).casefold() for pattern in group)
        assert [text for text, count in counts.items() if count > 1] == []
    facts = Counter((pattern.category, pattern.output) for patterns in PACKS.values() for pattern in patterns)
    assert [fact for fact, count in facts.items() if count > 1] == []


@pytest.mark.parametrize("kind", sorted({pattern.kind for pattern in ALL}))
def test_inputs_and_outputs_are_one_short_plain_line(kind: str) -> None:
    for pattern in (one for one in ALL if one.kind == kind):
        assert len(pattern.output) <= (60 if kind in PACKS else 40) and len(pattern.input) <= 80
        for text in (pattern.input, pattern.output):
            assert text == normalise(text) == visible(text) and text.isascii()


def test_the_default_split_asks_enough_of_each_kind() -> None:
    asked = Counter(row.split_kind for row in split(PATTERNS, seed=0)["test"])
    facts = sum(not pattern.rule for pattern in PATTERNS)
    assert asked["rewording"] == facts >= 150 and asked["generalization"] >= 300 and asked["control"] == 28
    assert asked["recall"] == facts + 12 * len({p.category for p in PATTERNS if p.rule})


def test_every_fact_has_three_rewordings_in_other_words() -> None:
    for pattern in ALL:
        if pattern.rule:
            continue
        assert len(pattern.also) >= 3, pattern.place
        asked = normalise(pattern.input).casefold().rstrip("?")
        for text in pattern.also:
            assert asked not in text.casefold() or pattern.input in STEMS, (pattern.place, text)
            assert text == normalise(text) == visible(text) and text.isascii() and len(text) <= 130
            leaks = re.search(rf"(?<!\w){re.escape(pattern.output)}(?!\w)", text)
            assert not leaks or pattern.output in pattern.input, (pattern.place, text)
        texts = [pattern.input, *pattern.also]
        assert len([*near_duplicates(texts, texts)]) == len(texts), pattern.place  # each is near itself alone


STEMS = {p.input for p in PATTERNS if p.kind == "code_idioms" and not p.input.startswith("Python")}


def test_http_reasons_are_those_of_the_standard_library() -> None:
    found = {pattern.input.split()[2]: pattern.output for pattern in of_category("http_status")}
    assert found and found == {code: http.HTTPStatus(int(code)).phrase for code in found}


def test_signal_numbers_are_this_machines() -> None:
    assert rows("unix_signal") == {name: str(signal.Signals[name].value) for name in rows("unix_signal")}


def test_a_bare_python_answer_compiles() -> None:
    """Idioms and fixes are pieces of Python: a line that opens a block gets a body, an expression stays unchanged."""
    fixes = ("python3_syntax", "missing_mark", "javascript_in_python", "missing_import")
    for pattern in PATTERNS:
        if (pattern.kind == "code_idioms" and pattern.input.startswith("Python")) or pattern.category in fixes:
            line = pattern.output
            body = "try:\n    pass\n" if line.startswith("except") else ""
            compile(f"{body}{line}\n    pass" if line.endswith(":") else line, pattern.place, "exec")


def test_stems_and_their_completions_are_python_together() -> None:
    stems = [pattern for pattern in PATTERNS if pattern.input in STEMS]
    for pattern in stems:
        joint = "" if pattern.input.endswith(("(", ".")) else " "
        compile(f"{pattern.input}{joint}{pattern.output}\n    pass", pattern.place, "exec")
    assert len(stems) >= 3


def test_broken_lines_are_broken_and_their_fixes_change_little() -> None:
    for text, fixed in rows("missing_mark").items():
        with pytest.raises(SyntaxError):
            compile(text if not fixed.endswith(":") else f"{text}\n    pass", "broken", "exec")
        assert fixed.startswith(text) and len(fixed) - len(text) <= 1


def test_no_bundled_file_is_forgotten() -> None:
    assert sorted(path.stem for path in bundled("patterns").glob("*.y*ml")) == sorted({p.kind for p in PATTERNS})


@pytest.mark.parametrize("two", [*combinations(["patterns", *PACKS], 2)], ids="+".join)
def test_any_two_packs_go_together_and_leave_something_to_measure(two: tuple[str, str], tmp_path: Path) -> None:
    files = find_files(",".join(two))
    patterns = load_patterns(files)
    write_data(patterns, files, tmp_path / "data", seed=0)  # refuses prompts that collide, and leaks
    kinds = Counter(row.kind for row in split(patterns, 0)["test"] if row.split_kind == "rewording")
    assert set(kinds) == {p.kind for p in patterns if not p.rule} and min(kinds.values()) >= 5


def test_reasons_and_methods_are_the_standard_librarys() -> None:
    reasons = rows("http_reason", "Reason phrase of HTTP status")
    assert reasons == {code: http.HTTPStatus(int(code)).phrase for code in reasons}
    codes = rows("http_code", "HTTP status code of")
    assert codes == {http.HTTPStatus(int(code)).phrase: code for code in codes.values()}
    methods = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"]
    assert sorted(p.output for p in ALL if p.category == "http_method") == methods


def test_classes_are_those_of_rfc_9110() -> None:
    classes = rows("http_class", "Class of the HTTP statuses")
    assert [f"{code} to {code[0]}99" for code in ("100", "200", "300", "400", "500")] == [*classes]
    assert [*classes.values()] == ["Informational", "Successful", "Redirection", "Client Error", "Server Error"]


# the pack's wording of a service: its name and protocol in the list of services
SERVICES = {
    "FTP control": "ftp", "SSH": "ssh", "Telnet": "telnet", "SMTP": "smtp", "WHOIS": "whois", "TACACS": "tacacs",
    "DNS": "domain", "a BOOTP or DHCP server": "bootps/udp", "a BOOTP or DHCP client": "bootpc/udp", "TFTP": "tftp/udp",
    "Gopher": "gopher", "Finger": "finger", "HTTP": "http", "Kerberos": "kerberos", "POP3": "pop3", "NTP": "ntp/udp",
    "the portmapper of Sun RPC": "sunrpc", "NNTP": "nntp", "the NetBIOS name service": "netbios-ns/udp", "BGP": "bgp",
    "the NetBIOS session service": "netbios-ssn", "IMAP": "imap2", "SNMP": "snmp", "SNMP traps": "snmp-trap",
    "LDAP": "ldap", "HTTPS": "https", "SMB without NetBIOS": "microsoft-ds", "ISAKMP": "isakmp/udp", "RTSP": "rtsp",
    "mail submission": "submission", "IPP printing": "ipp", "LDAP over TLS": "ldaps", "rsync": "rsync",
    "FTP control over TLS": "ftps", "IMAP over TLS": "imaps", "POP3 over TLS": "pop3s", "SOCKS": "socks",
    "OpenVPN": "openvpn", "Microsoft SQL Server": "ms-sql-s", "L2TP": "l2f", "RADIUS": "radius/udp",
    "RADIUS accounting": "radius-acct/udp", "NFS": "nfs", "iSCSI targets": "iscsi-target", "MySQL": "mysql",
    "Subversion": "svn", "SIP": "sip", "SIP over TLS": "sip-tls", "XMPP clients": "xmpp-client",
    "XMPP between servers": "xmpp-server", "Multicast DNS": "mdns/udp", "PostgreSQL": "postgresql", "AMQP": "amqp",
    "Git": "git", "a Zabbix agent": "zabbix-agent",
}  # fmt: skip
PORTS = {**rows("well_known_port", "IANA port number of"), **rows("registered_port", "IANA port number registered for")}


@pytest.mark.parametrize("service", PORTS)
def test_ports_are_those_of_the_list_of_services(service: str) -> None:
    if service not in SERVICES:
        pytest.skip("Debian's list of services is a selection, and does not have it")
    name, _, protocol = SERVICES[service].partition("/")
    try:
        port = socket.getservbyname(name, protocol or "tcp")
    except OSError:
        pytest.skip("this machine's list of services does not have it")
    assert PORTS[service] == str(port)


def test_services_by_port_agree_with_ports_by_service() -> None:
    assert all(PORTS.get(service, port) == port for service, port in rows("default_port").items())
    other = {"FTP": "FTP control", "LDAPS": "LDAP over TLS", "IMAPS": "IMAP over TLS", "POP3S": "POP3 over TLS"}
    for port, service in rows("port_service", "Service on IANA port").items():
        assert PORTS[other.get(service, service)] == port
    assert all(0 < int(PORTS[p]) < 1024 for p in rows("well_known_port", "IANA port number of"))
    assert all(1024 <= int(PORTS[p]) < 49152 for p in rows("registered_port", "IANA port number registered for"))


def test_an_acronym_is_made_of_its_words_letters() -> None:
    """In order; POSIX has one of no word, and XSS one that looks like a cross."""
    for pattern in PACKS["acronyms"]:
        acronym, letters = pattern.input.split()[-1], iter(pattern.output.casefold())
        assert acronym in ("POSIX", "XSS") or all(letter in letters for letter in acronym.casefold()), acronym


def test_a_bare_name_is_a_pack_unless_something_here_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = packs()
    monkeypatch.chdir(tmp_path)
    assert find_files("http,ports") == [known["http"], known["ports"]]
    assert find_files("patterns,http") == [*find_files("patterns"), known["http"]]
    assert not set(find_files()) & set(known.values())
    Path("http").mkdir()
    Path("http/own.yaml").write_text(pack_yaml())
    assert find_files("http,ports") == [Path("http/own.yaml"), known["ports"]]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("htpp", "htpp: no such pattern file or folder, did you mean 'http'?"),
        ("xyz", "xyz: no such pattern file or folder, nor a pack: those are acronyms, capitals, http, ports"),
        ("./http", "./http: no such pattern file or folder"),
        ("http.yaml", "http.yaml: no such pattern file or folder"),
    ],
)
def test_an_unknown_name_names_the_packs(spec: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    error: EngramError = refusal(find_files, spec)
    fix = "  fix: give a folder of .yaml files, or a pack's name: PATTERNS=DIR"
    assert str(error) == f"{said}\n{fix}"


def test_packs_lists_them() -> None:
    result = CliRunner().invoke(main, ["packs"])
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [[name, str(len(PACKS[name])), "patterns:"] for name in PACKS]
    assert lines[3] == "ports        86 patterns: well_known_port 36, registered_port 24, port_service 26"
