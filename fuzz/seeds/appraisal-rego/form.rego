package policy
import rego.v1
default hardware := 97
default allow := false
hardware := 2 if {
	some x in input.snp.list
	x.a == query_reference_value("a")[_]
}
else := 3 if count([y | y := numbers.range(1, 5)[_]]) > 2
allow if data["resource-path"][0] == concat("/", ["a", sprintf("%03d", [1])])
f(x) := y if { y := x + 1 }
executables := f(2)
