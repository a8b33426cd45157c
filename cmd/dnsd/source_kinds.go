//go:build !noetcd

package main

// sourceKinds are all that there are.
var sourceKinds = []*sourceKind{fileKind, etcdKind, corrosionKind, stateKind}
