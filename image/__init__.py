# SPDX-License-Identifier: Apache-2.0
"""The container image of the daemon, built without a container engine, without root and without running any of it.

A few Debian packages (Python and libnftables with what they load) are unpacked beside the wheels of the daemon; no
package script runs. Every byte comes from a locked package, a wheel with a known hash or this folder, every time is
that of the last commit, and every entry is sorted: the same commit gives the same digest.
"""
