package bootstrap

import _ "embed"

// minimalList has what a VM needs to boot and to build software: the image that a host
// gets first, and that tests use.
//
//go:embed minimal.list
var minimalList string

// defaultList has what people and agents work with beside that.
//
//go:embed default.list
var defaultList string
