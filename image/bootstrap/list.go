package bootstrap

import (
	_ "embed"

	"banger"
)

//go:embed debian-12.list
var defaultList string

// defaultPackages are the packages of the default image.
func defaultPackages() []string { return banger.PackageList(defaultList) }
