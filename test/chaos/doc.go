// Package chaos runs a whole platform and breaks it at random: three etcd
// members, four dnsds with the machines of their hosts, each in a network
// namespace of its own, and writers that never rest. Members and dnsds are cut
// off, frozen, killed, wiped and restarted, disks fill up, clocks are set, by a
// plan that one number makes:
//
//	go test ./test/chaos -v -chaos.for 10m -chaos.seed 1 -timeout 20m
//
// Without a seed the run draws one and prints it. Without a time it breaks
// things for two minutes where DNSD_TEST_FULL is set, and for 8 seconds elsewhere.
//
// All the time the machines ask names of all kinds, and every answer is held
// against what was true. docs/failures.md says what dnsd promises under each
// fault; this package checks that, and nothing in it is taken from dnsd: what a
// dnsd may know follows from the faults that the test itself has made.
package chaos
