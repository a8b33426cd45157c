// Package test holds the end-to-end tests: the real binary, started as a
// process in a network namespace of the test's own, asked through real sockets
// by clients of several private networks. They are written from the contract
// (the names dnsd answers) and know nothing of the code.
//
// They need the right to make a network and a mount namespace: root, or a
// kernel that lets anyone make a user namespace. Where that is refused they
// skip and say so; DNSD_TEST_NO_SKIP=1 turns every such skip into a failure.
// DNSD_TEST_FULL=1 has tests that repeat something at random do so longer.
package test
