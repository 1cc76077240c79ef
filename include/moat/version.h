/* Moat's version: the one place that says it; the Makefile, the man pages and the pkg-config file read it from here. */
#ifndef MOAT_VERSION_H
#define MOAT_VERSION_H

#define MOAT_VERSION "0.1.0"

#endif
