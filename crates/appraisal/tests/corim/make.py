#!/usr/bin/env python3
"""Makes the manifests beside it, with an implementation of CBOR and of signatures that is not ours:
   pip install cbor2 cryptography; python3 make.py
The keys are thrown away. Source: draft-ietf-rats-corim, RFC 9052."""
import pathlib

import cbor2
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

HERE = pathlib.Path(__file__).parent
Tag = cbor2.CBORTag
NOT_BEFORE, NOT_AFTER = 1_790_000_000, 1_800_000_000


def comid(environment, measurements):
    body = {0: "en-GB", 1: {0: "guest", 1: 1}, 2: [{0: "Example", 1: Tag(32, "https://example.com"), 2: [1]}],
            4: {0: [[environment, measurements]]}}
    return Tag(506, cbor2.dumps(body))


def corim(tags, profile=None):
    body = {0: "guest-0.1.0", 1: tags, 4: {0: Tag(1, NOT_BEFORE), 1: Tag(1, NOT_AFTER)}, 5: [{0: "Example", 2: [1]}]}
    if profile:
        body[3] = Tag(32, profile)
    return Tag(501, body)


TDX = comid({0: {1: "Intel", 2: "TDX"}}, [
    {0: "mr_td", 1: {2: [[7, b"\x01" * 48], ["sha-384", b"\x02" * 48]]}},
    {0: "rtmr_1", 1: {2: [[7, b"\x03" * 48]]}},
    {0: "rtmr_2", 1: {2: [[7, b"\x04" * 48]]}},
    {0: "xfam", 1: {4: Tag(560, bytes.fromhex("e702060000000000"))}},
    {0: "snp_snp_svn", 1: {1: Tag(552, 24)}},
])
AMD = comid({0: {0: Tag(37, bytes.fromhex("d05e6d1b9f464ae2a610ce3e6ee7e153")), 1: "AMD", 2: "SEV-SNP"}}, [
    {0: 0, 1: {2: [[7, b"\xaa" * 48]]}},
    {0: 5, 1: {4: Tag(560, b"\xbb" * 48)}},
])


def sign(payload, key, algorithm, hash_, size, headers):
    protected = cbor2.dumps({1: algorithm, 3: "application/rim+cbor", **headers})
    message = cbor2.dumps(["Signature1", protected, b"", payload])
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hash_)))
    return Tag(18, [protected, {4: b"key"}, payload, r.to_bytes(size, "big") + s.to_bytes(size, "big")])


def public(key):
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def main():
    plain = cbor2.dumps(corim([TDX]))
    (HERE / "tdx.cbor").write_bytes(plain)
    (HERE / "amd.cbor").write_bytes(cbor2.dumps(Tag(500, corim([AMD], "tag:amd.com,2024:snp-corim-profile"))))
    p256, p384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
    meta = {8: cbor2.dumps({0: {0: "Example", 1: Tag(32, "https://example.com")}, 1: {1: Tag(1, 1_797_000_000)}})}
    (HERE / "es256.cbor").write_bytes(cbor2.dumps(sign(plain, p256, -7, hashes.SHA256(), 32, meta)))
    claims = {15: {1: "Example", 4: 1_798_000_000, 5: NOT_BEFORE}}
    signed = sign(plain, p384, -35, hashes.SHA384(), 48, claims)
    (HERE / "es384.cbor").write_bytes(cbor2.dumps(Tag(500, Tag(502, signed))))
    (HERE / "p256.der").write_bytes(public(p256))
    (HERE / "p384.der").write_bytes(public(p384))


main()
