// Package names is what VMs are called by: their names, their labels, and the ports of the host
// that lead to them, and in a line for a person. It says which may be had.
//
// It knows nothing of how VMs are made.
package names

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"banger"
)

// maxLabels bounds the labels of a VM, and maxLabel what one may say.
const maxLabels, maxLabel = 64, 255

// CheckLabels says what no label may be.
func CheckLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return banger.Errorf(banger.CodeInvalid, "%d labels are too many: a VM can have %d", len(labels), maxLabels)
	}
	for key, value := range labels {
		if !labelKey.MatchString(key) {
			return banger.Errorf(banger.CodeInvalid, "%q can't be the key of a label", key).WithHint("use 1 to 63 of a-z, 0-9, -, _, . and /, with a letter or digit first")
		}
		if len(value) > maxLabel || strings.ContainsFunc(value, unicode.IsControl) {
			return banger.Errorf(banger.CodeInvalid, "the label %s has a value that isn't one line of at most %d bytes", key, maxLabel)
		}
	}
	return nil
}

var labelKey = regexp.MustCompile(`^[a-z0-9][a-z0-9._/-]{0,62}$`)

// For makes a name of two words from an id. The same id and try give the same name.
// Tries after the first few add a number.
func For(id string, try int) string {
	sum := sha256.Sum256([]byte(id + strconv.Itoa(try)))
	name := adjectives[int(sum[0])%len(adjectives)] + "-" + nouns[int(sum[1])%len(nouns)]
	if try >= 8 {
		name += "-" + strconv.Itoa(int(sum[2])<<8|int(sum[3]))
	}
	return name
}

var adjectives = strings.Fields(`able airy amber apt arctic ashen avid azure bold brave brief bright brisk calm
	candid civil clear clever coral crisp dapper deft dusky eager early easy even fair fleet fond frank fresh gentle
	glad golden grand green happy hardy hazel humble ivory jolly keen kind lively lucid lucky mellow merry mild misty
	modest mossy neat nimble noble olive patient plain proud quick quiet rapid ready rosy royal ruby rustic sage sandy
	silent silver simple sleek snowy solar spry steady sturdy subtle sunny swift tawny tender tidy vivid warm wise witty`)

var nouns = strings.Fields(`acorn alder anchor apple arrow aspen badger barley basil beacon bear beaver beech birch
	bison brook cedar cherry clover comet condor cove crane creek cricket daisy deer delta dove eagle elk elm ember
	falcon fern finch fjord flint fox gale garnet gecko geyser glade grove gull harbor hare hawk hazel heron hill ibis
	iris jay juniper kestrel lake lark laurel lemon lily linden lion llama lotus lynx magpie maple marten meadow mesa
	mole moose moss newt oak orca otter owl panda pearl pine plum pony poppy quail raven reed robin rook rowan sable
	salmon seal sorrel spruce stork swan tern thistle thrush tiger trout tulip vale walnut whale willow wolf wren yak`)

// Words describes a machine for a person.
func Words(s banger.Spec) string {
	on := s.Hypervisor
	if s.Isolation != "" {
		on += ", isolation " + string(s.Isolation)
	}
	return fmt.Sprintf("%s on kernel %s, vcpu %d, memory %dM, disk %dM, network %s, %s",
		s.Image, s.Kernel, s.VCPU, s.MemoryMiB, s.DiskMiB, s.Net, on)
}
