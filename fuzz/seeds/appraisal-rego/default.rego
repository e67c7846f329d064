# The default policy of Belljar in Rego. The broker evaluates the same rules in code (src/policy/rules.rs); this text is for
# those who want to start from it, and a property test holds the two together.
#
# input: the claims. data.settings: the settings of the default policy. data.sets: measurement sets, each an object of
# reference value names with the values that hold at the time (none where all have expired).
package policy

import rego.v1

belljar := input.belljar

default authentic := false

authentic if belljar.authentic == true

default software := false

software if belljar.root in {"software", "test"}

intel if belljar.kind in {"tdx", "sgx", "az-tdx-vtpm"}

# Which rules hold. A rule that is not asked for is not here.
rules := {"evidence": false} if not authentic

rules := object.union_n([asked_always, asked_of_hardware, asked_of_intel]) if authentic

asked_always := {
	"evidence": true,
	"session": session,
	"root": root,
	"measurement": measurement,
	"debug": debug,
	"migration": migration,
	"flags": flags,
	"init-data": init_data,
}

asked_of_hardware := {"revocation": revocation, "tcb": tcb} if not software

else := {}

asked_of_intel := object.union_n([asked_eval_number, asked_advisories, {"freshness": freshness}]) if {
	not software
	intel
}

else := {}

asked_eval_number := {"tcb-eval-number": eval_number} if is_number(data.settings.min_tcb_eval_number)

else := {}

asked_advisories := {"advisories": advisories} if is_array(data.settings.advisories)

else := {}

default session := false

session if belljar.session_bound == true

default root := false

root if belljar.root == "hardware"

root if {
	software
	data.settings.allow_software_tee == true
}

default revocation := false

revocation if belljar.revocation_checked == true

revocation if data.settings.require_revocation == false

is_whole(number) if {
	is_number(number)
	number >= 0
	floor(number) == number
}

whole(number) := number if is_whole(number)

else := 0

default tcb := false

tcb if {
	intel
	belljar.tcb.status in data.settings.tcb_status
}

tcb if {
	not intel
	least_tcb := data.settings.min_snp_tcb[belljar.tcb.product]
	every which in ["reported", "committed"] {
		is_whole(belljar.tcb[which].snp)
		every part, least in least_tcb {
			whole(object.get(belljar.tcb[which], part, 0)) >= least
		}
	}
}

tcb_is_refused if {
	intel
	belljar.tcb.status in {"Revoked", "NotSupported"}
	not tcb
}

default eval_number := false

eval_number if {
	is_whole(belljar.tcb.eval_number)
	belljar.tcb.eval_number >= data.settings.min_tcb_eval_number
}

default advisories := false

advisories if {
	is_array(belljar.tcb.advisories)
	every id in belljar.tcb.advisories {
		id in data.settings.advisories
	}
}

rungs := {"fresh": 0, "in_grace": 1, "stale": 2}

default freshness := false

freshness if rungs[belljar.freshness] <= rungs[data.settings.freshness]

# Reference value, path of the claim, and whether a set must have it.
tables := {
	"snp": [
		["snp_launch_measurement", ["snp", "measurement"], true],
		["snp_id_key_digest", ["belljar", "id_key_digest"], false],
		["snp_author_key_digest", ["belljar", "author_key_digest"], false],
	],
	"tdx": [
		["mr_td", ["tdx", "quote", "body", "mr_td"], true],
		["rtmr_1", ["tdx", "quote", "body", "rtmr_1"], true],
		["rtmr_2", ["tdx", "quote", "body", "rtmr_2"], true],
		["rtmr_0", ["tdx", "quote", "body", "rtmr_0"], false],
		["rtmr_3", ["tdx", "quote", "body", "rtmr_3"], false],
		["mr_seam", ["tdx", "quote", "body", "mr_seam"], false],
		["tcb_svn", ["tdx", "quote", "body", "tcb_svn"], false],
		["xfam", ["tdx", "quote", "body", "xfam"], false],
		["mr_owner", ["tdx", "quote", "body", "mr_owner"], false],
		["mr_owner_config", ["tdx", "quote", "body", "mr_owner_config"], false],
	],
	"sgx": [
		["mr_enclave", ["sgx", "body", "mr_enclave"], true],
		["mr_signer", ["sgx", "body", "mr_signer"], false],
		["isv_prod_id", ["sgx", "body", "isv_prod_id"], false],
		["isv_svn", ["sgx", "body", "isv_svn"], false],
	],
	"az-snp-vtpm": [
		["measurement", ["az-snp-vtpm", "measurement"], true],
		["snp_pcr11", ["az-snp-vtpm", "tpm", "pcr11"], true],
		["snp_pcr04", ["az-snp-vtpm", "tpm", "pcr04"], false],
		["snp_pcr09", ["az-snp-vtpm", "tpm", "pcr09"], false],
		["snp_pcr12", ["az-snp-vtpm", "tpm", "pcr12"], false],
	],
	"az-tdx-vtpm": [
		["mr_td", ["az-tdx-vtpm", "quote", "body", "mr_td"], true],
		["tdx_pcr11", ["az-tdx-vtpm", "tpm", "pcr11"], true],
		["tdx_pcr04", ["az-tdx-vtpm", "tpm", "pcr04"], false],
		["tdx_pcr09", ["az-tdx-vtpm", "tpm", "pcr09"], false],
		["tdx_pcr12", ["az-tdx-vtpm", "tpm", "pcr12"], false],
		["xfam", ["az-tdx-vtpm", "quote", "body", "xfam"], false],
	],
	"tpm": [
		["trusted_aks", ["tpm", "ak_public"], true],
		["tpm_pcr11", ["tpm", "pcr11"], true],
		["tpm_pcr04", ["tpm", "pcr04"], false],
		["tpm_pcr09", ["tpm", "pcr09"], false],
		["tpm_pcr12", ["tpm", "pcr12"], false],
	],
}

default table := []

table := [["software_launch_measurement", ["snp", "measurement"], true]] if {
	software
	belljar.kind == "snp"
}

else := tables[belljar.kind]

# A row is no obstacle when the set does not have it and need not.
row_agrees(values, row) if {
	row[2] == false
	not has_name(values, row[0])
}

row_agrees(values, row) if object.get(input, row[1], null) in values[row[0]]

has_name(values, name) if values[name]

sets contains name if {
	some name, values in data.sets
	some row in table
	has_name(values, row[0])
	every each in table {
		row_agrees(values, each)
	}
}

default measurement := false

measurement if count(sets) > 0

default debug := false

debug if belljar.debug == false

default migration := false

migration if belljar.migratable == false

own_rule := {
	"debug-policy",
	"td-debug",
	"enclave-debug",
	"migration-policy",
	"td-migratable",
	"software-tee",
	"test-root",
}

default flags := false

flags if {
	is_array(belljar.flags)
	every flag in belljar.flags {
		flag_is_taken(flag)
	}
}

flag_is_taken(flag) if flag in own_rule

flag_is_taken(flag) if flag in data.settings.flags

default init_data := false

init_data if {
	belljar.contract.sent == true
	belljar.contract.bound == true
}

init_data if {
	not belljar.contract.sent == true
	data.settings.require_init_data == false
}

# AR4SI.
default hardware := 2

hardware := 99 if not authentic

else := 97 if {
	not belljar.root == "hardware"
	not software
}

else := 96 if software

else := 96 if tcb_is_refused

else := 32 if {
	some rule in ["revocation", "tcb", "tcb-eval-number", "advisories", "freshness"]
	rules[rule] == false
}

default instance_identity := 0

instance_identity := 99 if {
	authentic
	not session
}

default executables := 0

executables := 3 if {
	authentic
	measurement
}

else := 33 if authentic

default configuration := 0

configuration := 96 if {
	authentic
	configuration_is_refused
}

else := 36 if {
	authentic
	some rule in ["debug", "migration", "flags", "init-data"]
	rules[rule] == false
}

else := 2 if authentic

configuration_is_refused if belljar.debug != false

configuration_is_refused if belljar.migratable != false

configuration_is_refused if {
	belljar.contract.sent == true
	not belljar.contract.bound == true
}

trust_claims := {
	"instance-identity": instance_identity,
	"configuration": configuration,
	"executables": executables,
	"file-system": 0,
	"hardware": hardware,
	"runtime-opaque": 0,
	"storage-opaque": 0,
	"sourced-data": 0,
}
