/* Private to the library: what Debian 12's kernel headers (6.1) do not have yet. Source:
 * include/uapi/linux/userfaultfd.h. */
#ifndef FAULTLINE_KERNEL_UFFD_H
#define FAULTLINE_KERNEL_UFFD_H

#include <linux/userfaultfd.h>

#ifndef USERFAULTFD_IOC_NEW /* Linux 6.1 */
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED /* Linux 6.4 */
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC /* Linux 6.7 */
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

#endif
