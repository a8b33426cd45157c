//go:build noetcd

package main

// sourceKinds are all but etcd, whose client is a third of the binary.
var sourceKinds = []*sourceKind{fileKind, corrosionKind, stateKind}
