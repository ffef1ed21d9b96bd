package boot

// What can be looked at without a guest.
var (
	Hosts        = hosts
	UpdateFile   = updateFile
	Superblock   = superblock
	EncodeStages = encodeStages
	DecodeStages = decodeStages
	InRoot       = inRoot
	MakeInRoot   = makeInRoot
	Takes        = takes
)

// MountPoints returns the mount points in a mountinfo text.
func MountPoints(mountinfo string) (at []string) {
	for _, m := range parseMounts(mountinfo) {
		at = append(at, m.at)
	}
	return at
}
