package policy
hardware := {1: [{1: [{1: [1]}]}]}
