# ruff: noqa: RUF001 - characters that look like others are what is tested
"""What the address guard lets through, spelling by spelling."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost import errors
from outpost.adapters.egress import guard as egress
from outpost.adapters.http import endpoint

GUARD = egress.Guard()

REFUSED = [
    # loopback, in every form that a C library reads
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0X7F000001",
    "0x7f.1",
    "0x7f.0x0.0x0.0x1",
    "0177.0.0.1",
    "0177.0.0.01",
    "00000177.1",
    "0x7f.0.1",
    "127.0.0.0x1",
    # other special IPv4
    "0.0.0.0",
    "0",
    "0x0",
    "0x",
    "00",
    "0.1.2.3",
    "10.0.0.1",
    "10.1",
    "167772161",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "168.63.129.16",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.168.257",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "4294967295",
    # numbers that are no address, on which resolvers disagree
    "256.0.0.1",
    "1.2.3.4.5",
    "4294967296",
    "0x100000000",
    "127.0.0.08",
    "127.0.0.09",
    "8.8.8.256",
    "8..8.8",
    "host.1",
    "host.0x1",
    "1.16777216",
    "9" * 5000,
    # IPv6
    "::",
    "::1",
    "[::1]",
    "0:0:0:0:0:0:0:1",
    "0000:0000::0001",
    "::127.0.0.1",
    "::7f00:1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::FFFF:7F00:1",
    "0:0:0:0:0:ffff:7f00:0001",
    "::ffff:10.0.0.1",
    "::ffff:a9fe:a9fe",
    "::ffff:0:7f00:1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::8.8.8.8",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2002:808:808::1",
    "2001::1",
    "2001:0:7f00:1::",
    "2001:2::1",
    "2001:10::1",
    "2001:db8::1",
    "3fff::1",
    "5f00::1",
    "100::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::1",
    "[fe80::1]",
    "fe80::1%eth0",
    "fe80::1%25eth0",
    "2606:4700::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "4000::1",
    "::g",
    "1:2:3",
    "::1::",
    # unicode that becomes one of these, and texts that are no host
    "１２７.０.０.１",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "127｡0｡0｡1",
    "127．0．0．1",
    "0ｘ7f.1",
    "²130706433",
    "%31%32%37.0.0.1",
    "127.0.0.1%00.example.com",
    "",
    ".",
    "..",
]

PUBLIC = {
    "8.8.8.8": "8.8.8.8",
    "8.8.8.8.": "8.8.8.8",
    "1.2.3.": "1.2.0.3",
    "134744072": "8.8.8.8",
    "0x08080808": "8.8.8.8",
    "8.8.2056": "8.8.8.8",
    "010.8.8.8": "8.8.8.8",
    "100.63.255.255": "100.63.255.255",
    "100.128.0.0": "100.128.0.0",
    "172.15.255.255": "172.15.255.255",
    "172.32.0.0": "172.32.0.0",
    "169.253.255.255": "169.253.255.255",
    "1.1.1.1": "1.1.1.1",
    "223.255.255.255": "223.255.255.255",
    "2606:4700:4700::1111": "2606:4700:4700::1111",
    "[2606:4700:4700:0:0:0:0:1111]": "2606:4700:4700::1111",
    "2a00::1": "2a00::1",
    "::ffff:8.8.8.8": "8.8.8.8",
    "64:ff9b::8.8.8.8": "64:ff9b::808:808",
}

NAMES = [
    "example.com",
    "EXAMPLE.com.",
    "localhost",
    "a",
    "1.example.com",
    "127.0.0.1.nip.io",
    "0x7f.example",
    "a_b.c",
    "xn--bcher-kva.example",
    "1a",
    "0xg",
    "metadata.google.internal",
    "127.0.0.1a",
]


@pytest.mark.parametrize("host", REFUSED)
def test_a_special_address_is_refused_however_it_is_spelt(host: str) -> None:
    assert egress.REFUSED == GUARD.host(host)


@pytest.mark.parametrize(("host", "canonical"), PUBLIC.items())
def test_a_public_address_is_pinned_in_canonical_form(host: str, canonical: str) -> None:
    found = GUARD.host(host)
    assert isinstance(found, egress.Literal)
    assert ipaddress.ip_address(canonical) == ipaddress.ip_address(found.address)


@pytest.mark.parametrize("host", NAMES)
def test_a_name_is_left_to_what_it_resolves_to(host: str) -> None:
    assert egress.Name(host.lower().rstrip(".")) == GUARD.host(host)


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        ("http://example.com@127.0.0.1/", True),
        ("http://127.0.0.1@example.com/", False),
        ("http://127.0.0.1:80@example.com/", False),
        ("http://example.com:80@127.0.0.1:80/", True),
        ("http://127.0.0.1#@example.com/", True),
        ("http://127.0.0.1?@example.com/", True),
        ("http://example.com#@127.0.0.1/", False),
        ("http://127.0.0.1/@example.com", True),
        ("http://a%40127.0.0.1@example.com/", False),
        ("http://①②⑦.⓪.⓪.①/", True),
        ("http://[::ffff:127.0.0.1]/", True),
        ("http://[fe80::1%25eth0]/", True),
        ("https://2130706433/", True),
        ("http://0x7f.1:8080/", True),
    ],
)
def test_the_host_that_is_judged_is_the_host_of_the_parsed_url(url: str, refused: bool) -> None:
    assert refused == endpoint.judge(url, GUARD).refused


def test_the_judged_address_is_what_the_request_goes_to() -> None:
    guard = egress.Guard(["127.0.0.0/8"])
    assert "http://127.0.0.1:81/a?b" == str(endpoint.judge("http://u:p@0x7f.1:81/a?b#c", guard).url)


@pytest.mark.parametrize(
    ("cidrs", "host", "permitted"),
    [
        (["127.0.0.0/8"], "127.0.0.1", True),
        (["127.0.0.0/8"], "::ffff:127.0.0.1", True),
        (["127.0.0.0/8"], "64:ff9b::127.0.0.1", True),
        (["127.0.0.0/8"], "::127.0.0.1", False),
        (["127.0.0.0/8"], "::1", False),
        (["::1/128"], "::1", True),
        (["10.1.0.0/16"], "10.2.0.1", False),
        (["10.1.2.3/16"], "10.1.9.9", True),
        (["fd00::/8"], "fd12::1", True),
        (["fd00::/8"], "fe80::1", False),
        (["0.0.0.0/0"], "169.254.169.254", True),
        (["0.0.0.0/0"], "::1", False),
        ([" 10.0.0.1 "], "10.0.0.1", True),
        (["::/0"], "::ffff:10.0.0.1", True),
        (["2002::/16"], "2002:808:808::1", True),
    ],
)
def test_allowed_networks_are_let_through_and_nothing_beside_them(
    cidrs: list[str],
    host: str,
    permitted: bool,
) -> None:
    assert permitted == isinstance(egress.Guard(cidrs).host(host), egress.Literal)


def test_one_bad_address_spoils_an_answer() -> None:
    assert GUARD.permits_all(["8.8.8.8", "2606:4700::1"])
    assert not GUARD.permits_all(["8.8.8.8", "10.0.0.1"])
    assert not GUARD.permits_all(["8.8.8.8", "fe80::1%2"])
    assert not GUARD.permits_all(["nonsense"])


def test_every_network_that_is_none_is_named() -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        egress.Guard(["10.0.0.0/8", "10.0.0.0/33", "loopback"])
    assert ["10.0.0.0/33" in caught.value.problems[0], "loopback" in caught.value.problems[1]] == [True, True]


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.lists(st.sampled_from("doxX"), min_size=4, max_size=4))
def test_all_spellings_of_an_ipv4_address_are_judged_alike(number: int, parts: int, bases: list[str]) -> None:
    quads = list(number.to_bytes(4, "big"))
    values = [*quads[: parts - 1], int.from_bytes(bytes(quads[parts - 1 :]), "big")]
    form = {"d": "{}", "o": "0{:o}", "x": "0x{:x}", "X": "0X{:04X}"}
    text = ".".join(form[base].format(value) for value, base in zip(values, bases, strict=False))
    assert GUARD.host(str(ipaddress.IPv4Address(number))) == GUARD.host(text)


@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_judged_as_the_address_inside(address: ipaddress.IPv4Address) -> None:
    assert GUARD.permits(address) == GUARD.permits(ipaddress.IPv6Address(f"::ffff:{address}"))
    assert GUARD.permits(address) == GUARD.permits(ipaddress.IPv6Address(f"64:ff9b::{address}"))


@given(st.ip_addresses())
def test_nothing_that_the_standard_library_calls_special_is_permitted(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    special = (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
    )
    inside = isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address in egress.NAT64)
    assert inside or not (special and GUARD.permits(address))


def test_a_host_longer_than_any_name_is_refused_without_normalising_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """40,000 combining marks held the loop for a second."""
    seen: list[int] = []
    normalize = egress.unicodedata.normalize

    def counted(form: str, text: str) -> str:
        seen.append(len(text))
        return normalize(form, text)

    monkeypatch.setattr(egress.unicodedata, "normalize", counted)
    assert egress.REFUSED == GUARD.host("a" + "\u0301\u0327\u0316" * 13_000)
    assert [] == seen
    longest = "a" * egress.MAX_HOST_CHARACTERS
    assert egress.Name(longest) == GUARD.host(longest)
    assert [egress.MAX_HOST_CHARACTERS] == seen
