"""Makes jwe.json, and opens JWEs of ours: an independent implementation (PyPI: jwcrypto 1.6.1).

    python3 independent.py make > jwe.json      # fresh vectors, with the private keys
    python3 independent.py open < request.json  # {"jwk": {... with "d"}, "jwe": {...}} -> plaintext in hex
    python3 independent.py token < request.json # {"jwk": {...}, "token": "..."} -> the claims
"""

import json
import sys

from jwcrypto import jwe, jwk, jws

HEADER = {"alg": "ECDH-ES+A256KW", "enc": "A256GCM"}


def make():
    vectors = []
    for plaintext in [b"", b"0123456789abcdef0123456789abcdef", bytes(range(256)) * 5]:
        key = jwk.JWK.generate(kty="EC", crv="P-256")
        token = jwe.JWE(plaintext, protected=json.dumps(HEADER))
        token.add_recipient(key)
        exported = json.loads(key.export())
        # The compact form has the ephemeral key in the protected header, as our protocol wants it.
        names = ["protected", "encrypted_key", "iv", "ciphertext", "tag"]
        members = dict(zip(names, token.serialize(compact=True).split(".")))
        vectors.append({"jwk": exported, "jwe": members, "plaintext": plaintext.hex()})
    print(json.dumps(vectors, indent=1))


def open_():
    request = json.load(sys.stdin)
    token = jwe.JWE()
    token.deserialize(json.dumps(request["jwe"]), jwk.JWK(**request["jwk"]))
    print(token.payload.hex())


def token():
    request = json.load(sys.stdin)
    found = jws.JWS()
    found.deserialize(request["token"])
    found.verify(jwk.JWK(**request["jwk"]), alg="ES256")
    print(found.payload.decode())


{"make": make, "open": open_, "token": token}[sys.argv[1]]()
