// SPDX-License-Identifier: BSL-1.0
// Everything that needs neither an operating system nor a thread: the engine, and simulated memory
// to try it on. Memory of the process, the daemon and the formatters have headers of their own.
#ifndef KSM_KSM_HPP
#define KSM_KSM_HPP

#include <ksm/config.hpp>
#include <ksm/digest.hpp>
#include <ksm/outcome.hpp>
#include <ksm/page_provider.hpp>
#include <ksm/policy.hpp>
#include <ksm/providers/simulated.hpp>
#include <ksm/scanner.hpp>
#include <ksm/statistics.hpp>
#include <ksm/tunables.hpp>
#include <ksm/types.hpp>
#include <ksm/version.hpp>

#endif
