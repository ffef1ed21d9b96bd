# Configures packages that are unpacked: what dpkg would have done from the
# first preinst to the last postinst. Runs in a guest without an init, without a
# network, as root, on a tree nobody else uses.
set -e
early=/run/early
export PATH=$early:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 LANGUAGE=C
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true DEBIAN_PRIORITY=critical
umask 022
cd /

# No service may be started here: invoke-rc.d(8) asks this. deb-systemd-invoke
# does nothing where systemd isn't running.
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d

# This is a quarter of a build's programs, run for ca-certificates' postinst and again for
# its trigger. Whoever calls it before the end only says that it is due.
later="update-ca-certificates"
mkdir -p $early
for program in $later; do
	printf '#!/bin/sh\n: > $0.due\n' > $early/$program
	chmod 755 $early/$program
done

# dpkg syncs its database after every step, and this disk is thrown away: the
# database is kept in memory meanwhile.
mkdir -p /run/dpkg
mount -t tmpfs -o size=50%,mode=0755 tmpfs /run/dpkg
cp -a /var/lib/dpkg/. /run/dpkg/
mount --bind /run/dpkg /var/lib/dpkg

# The scripts that run before a package is unpacked, first those all others
# rely on.
before() {
	name=${1##*/} name=${name%.preinst} package=${name%:*}
	DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_PACKAGE=$package DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 \
	DPKG_MAINTSCRIPT_ARCH=amd64 DPKG_RUNNING_VERSION=$version DPKG_ADMINDIR=/var/lib/dpkg DPKG_ROOT= DPKG_FORCE= \
		"$1" install || { echo "preinst of $package failed" >&2; exit 1; }
}
version=$(dpkg-query --show --showformat='${Version}' dpkg)
first="base-passwd base-files"
for p in $first; do
	if [ -e "/var/lib/dpkg/info/$p.preinst" ]; then before "/var/lib/dpkg/info/$p.preinst"; fi
done
for script in /var/lib/dpkg/info/*.preinst; do
	case $script in */base-passwd.preinst | */base-files.preinst | *'*'*) continue ;; esac
	before "$script"
done

options="--force-unsafe-io --force-confold"
# Essential packages need each other before any is configured: this order works
# for every bootstrapper.
for p in base-passwd base-files dpkg libc6 perl-base mawk debconf; do
	if [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$p" 2>/dev/null)" = unpacked ]; then
		dpkg $options --force-depends --configure "$p"
	fi
done
dpkg $options --configure -a
wrong=$(dpkg --audit)
if [ -n "$wrong" ]; then
	echo "$wrong" >&2
	exit 1
fi

PATH=/usr/sbin:/usr/bin:/sbin:/bin
for program in $later; do
	if [ -e $early/$program.due ]; then $program; fi
done
rm -r $early

# What dpkg didn't change stays the image's, and costs no copy.
umount /var/lib/dpkg
cp -au /run/dpkg/. /var/lib/dpkg/
find /var/lib/dpkg -mindepth 1 -depth | while read -r f; do
	kept=/run/dpkg${f#/var/lib/dpkg}
	if [ ! -e "$kept" ] && [ ! -L "$kept" ]; then rm -d "$f"; fi
done
umount /run/dpkg
rm -f /usr/sbin/policy-rc.d
